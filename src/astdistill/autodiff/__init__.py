"""Derivatives of a network's loss: by torch, compiled, or hand-written for the ConvNet on a CPU."""

from .dispatch import EngineName, chosen, engine_name, engine_of, held_bytes, using
from .engine import Directional, EagerEngine, Engine, Gradient, PenaltyForm
from .training import Trainee

__all__ = [
    "Directional",
    "EagerEngine",
    "Engine",
    "EngineName",
    "Gradient",
    "PenaltyForm",
    "Trainee",
    "chosen",
    "engine_name",
    "engine_of",
    "held_bytes",
    "using",
]
