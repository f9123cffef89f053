"""Evaluation: train fresh networks on a small set of images under a named protocol, and compare them with the same
networks trained on real images."""

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
