"""Data: from a name, a folder or your own tensors to a preprocessed, labelled image set."""

from .dataset import DataConfig, Dataset, Split
from .loading import load_dataset
from .preprocessing import Preprocessing
from .synthetic import SyntheticSet
from .tensors import dataset_from_tensors, dataset_from_torch

__all__ = [
    "DataConfig",
    "Dataset",
    "Preprocessing",
    "Split",
    "SyntheticSet",
    "dataset_from_tensors",
    "dataset_from_torch",
    "load_dataset",
]
