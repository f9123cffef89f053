"""Networks: one parameter vector each, built by name."""

import functools

from torch import nn

from ..runtime.trust import trust_models
from . import registry
from .flat import FlatModel
from .registry import Factory


@functools.wraps(registry.build_model)
def build_model(model: str | Factory, shape: tuple[int, int, int], classes: int, seed: int = 0) -> nn.Module:
    # The caller vouches for the model: not in `registry`, which is also called with names that were read from files.
    trust_models(model)
    return registry.build_model(model, shape, classes, seed)


__all__ = [
    "FlatModel",
    "build_model",
]
