"""Evaluation: train fresh networks on a few images under a named protocol, beside the same networks on real images."""

from .baselines import full_data, kmeans_real, random_real
from .comparison import evaluate_all
from .evaluation import check_names, evaluate
from .pools import POOLS, architectures
from .recipe import AST_RELEASED_PROTOCOL, MTT_PROTOCOL, PROTOCOLS, EvalRecipe, protocol
from .scores import Entry, Scores
from .tables import markdown, table
from .training import NetworkResult

__all__ = [
    "AST_RELEASED_PROTOCOL",
    "MTT_PROTOCOL",
    "POOLS",
    "PROTOCOLS",
    "Entry",
    "EvalRecipe",
    "NetworkResult",
    "Scores",
    "architectures",
    "check_names",
    "evaluate",
    "evaluate_all",
    "full_data",
    "kmeans_real",
    "markdown",
    "protocol",
    "random_real",
    "table",
]
