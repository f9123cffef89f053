"""The outer loop: settings, state, one outer step, saving and resuming."""

from .loop import Observer, distill
from .settings import DistillSettings, check, check_data, check_settings

__all__ = [
    "DistillSettings",
    "Observer",
    "check",
    "check_data",
    "check_settings",
    "distill",
]
