"""The outer loop of dataset distillation."""

from .checks import check_settings
from .loop import distill
from .settings import DistillSettings

__all__ = ["DistillSettings", "check_settings", "distill"]
