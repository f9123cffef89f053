"""Data: from a name, a folder or your own tensors to a preprocessed, labelled image set."""

from __future__ import annotations

from .cache import cache_folder
from .config import DataConfig
from .dataset import Dataset, Split
from .loading import load_dataset
from .preprocessing import Preprocessing, fit_standard
from .representatives import clustered, representatives
from .tensors import dataset_from_tensors, dataset_from_torch
from .zca import fit_zca

__all__ = [
    "DataConfig",
    "Dataset",
    "Preprocessing",
    "Split",
    "cache_folder",
    "clustered",
    "dataset_from_tensors",
    "dataset_from_torch",
    "fit_standard",
    "fit_zca",
    "load_dataset",
    "representatives",
]
