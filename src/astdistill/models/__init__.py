"""Networks: one parameter vector each, built by name."""

from .convnets import ConvNet, deepest
from .flat import FlatModel
from .layers import GroupNorm
from .registry import Factory, Name, build_model, model_names, parse

__all__ = [
    "ConvNet",
    "Factory",
    "FlatModel",
    "GroupNorm",
    "Name",
    "build_model",
    "deepest",
    "model_names",
    "parse",
]
