"""The outer loop of dataset distillation."""

from .loop import distill
from .settings import DistillSettings

__all__ = ["DistillSettings", "distill"]
