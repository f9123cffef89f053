"""Evaluation: fresh networks trained on a few images under a named protocol, beside the same networks on real
images."""

from .protocol import MTT_PROTOCOL, PROTOCOLS, EvalRecipe
from .rows import random_real
from .runner import evaluate, evaluate_all
from .scores import Scores

__all__ = [
    "MTT_PROTOCOL",
    "PROTOCOLS",
    "EvalRecipe",
    "Scores",
    "evaluate",
    "evaluate_all",
    "random_real",
]
