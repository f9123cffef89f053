"""The outer loop: settings, state, one outer step, saving and resuming."""

from .loop import distill
from .settings import DistillSettings

__all__ = [
    "DistillSettings",
    "distill",
]
