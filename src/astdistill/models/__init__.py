"""Networks: the families of the papers, names for them, and a module seen as a function of one vector."""

from .building import Factory, build_model
from .convnet import ConvNet, deepest
from .flat import FlatModel
from .layers import GroupNorm
from .names import Name, model_names, parse

__all__ = ["ConvNet", "Factory", "FlatModel", "GroupNorm", "Name", "build_model", "deepest", "model_names", "parse"]
