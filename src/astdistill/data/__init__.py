"""Data: from a name, a folder or your own tensors to a preprocessed, labelled image set."""

from .dataset import DataConfig, Dataset, Split
from .loading import load_dataset
from .preprocessing import Preprocessing, fit_standard, fit_zca
from .selection import clustered, representatives
from .synthetic import SyntheticSet
from .tensors import dataset_from_tensors, dataset_from_torch

__all__ = [
    "DataConfig",
    "Dataset",
    "Preprocessing",
    "Split",
    "SyntheticSet",
    "clustered",
    "dataset_from_tensors",
    "dataset_from_torch",
    "fit_standard",
    "fit_zca",
    "load_dataset",
    "representatives",
]
