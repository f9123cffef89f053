"""`astdistill doctor`: what this machine has, and whether a miniature distillation works on it."""

from .command import doctor
from .findings import Finding

__all__ = ["Finding", "doctor"]
