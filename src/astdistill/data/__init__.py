"""Data: from a name, a folder or your own tensors to a preprocessed, labelled image set."""

from __future__ import annotations

from .cache import cache_folder
from .config import DataConfig
from .dataset import Dataset, Split
from .loading import load_dataset
from .preprocessing import Preprocessing, fit_standard, fit_zca
from .representatives import representatives
from .tensors import dataset_from_tensors, dataset_from_torch

__all__ = [
    "DataConfig",
    "Dataset",
    "Preprocessing",
    "Split",
    "cache_folder",
    "dataset_from_tensors",
    "dataset_from_torch",
    "fit_standard",
    "fit_zca",
    "load_dataset",
    "representatives",
]
