"""Derivatives of a network's loss, and the engines that compute them: torch's own, compiled, and hand-written for the ConvNet on a CPU."""

from .choice import EngineName, chosen, engine_name, engine_of, held_bytes, using
from .eager import EagerEngine
from .engine import Directional, Engine, Gradient, PenaltyForm
from .trainee import Trainee

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
