"""Networks: the ConvNet family, names for them, and a module seen as a function of one vector."""

from .building import Factory, build_model, model_names
from .convnet import ConvNet, GroupNorm, deepest
from .flat import FlatModel

__all__ = ["ConvNet", "Factory", "FlatModel", "GroupNorm", "build_model", "deepest", "model_names"]
