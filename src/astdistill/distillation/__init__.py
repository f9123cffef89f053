"""The outer loop of dataset distillation."""

from .checks import check, check_data, check_settings
from .loop import Observer, distill
from .settings import DistillSettings

__all__ = ["DistillSettings", "Observer", "check", "check_data", "check_settings", "distill"]
