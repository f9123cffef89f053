"""The outer loop of dataset distillation."""

from .checks import check_data, check_settings
from .loop import distill
from .settings import DistillSettings

__all__ = ["DistillSettings", "check_data", "check_settings", "distill"]
