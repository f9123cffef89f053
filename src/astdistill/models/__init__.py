"""Networks: one parameter vector each, built by name."""

import functools

from torch import nn

from ..runtime.trust import trust_models
from . import registry
from .convnets import ConvNet, deepest
from .flat import FlatModel
from .layers import GroupNorm
from .registry import Factory, Name, model_names, parse


@functools.wraps(registry.build_model)
def build_model(model: str | Factory, shape: tuple[int, int, int], classes: int, seed: int = 0) -> nn.Module:
    # The caller's word: here, and not in `registry`, which is also called with names that were read from files.
    trust_models(model)
    return registry.build_model(model, shape, classes, seed)


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
