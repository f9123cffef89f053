"""Evaluation: train fresh networks on a few images under a named protocol, beside the same networks on real images."""

from .baselines import full_data, kmeans_real, random_real
from .classes import by_class, confusions
from .comparison import evaluate_all
from .continual import Continual, continual, continual_table
from .evaluation import check_names, evaluate
from .pools import POOLS, architectures
from .ranking import Ranking, rank, ranking_table
from .rates import rates_table, search_rates
from .recipe import AST_RELEASED_PROTOCOL, MTT_PROTOCOL, PROTOCOLS, EvalRecipe, protocol
from .scores import Entry, Scores, SearchedRate, Subject
from .tables import LABELS, networks_text, protocol_text, spread, table
from .training import NetworkResult, TensorExamples, train_epochs

__all__ = [
    "AST_RELEASED_PROTOCOL",
    "LABELS",
    "MTT_PROTOCOL",
    "POOLS",
    "PROTOCOLS",
    "Continual",
    "Entry",
    "EvalRecipe",
    "NetworkResult",
    "Ranking",
    "Scores",
    "SearchedRate",
    "Subject",
    "TensorExamples",
    "architectures",
    "by_class",
    "check_names",
    "confusions",
    "continual",
    "continual_table",
    "evaluate",
    "evaluate_all",
    "full_data",
    "kmeans_real",
    "networks_text",
    "protocol",
    "protocol_text",
    "random_real",
    "rank",
    "ranking_table",
    "rates_table",
    "search_rates",
    "spread",
    "table",
    "train_epochs",
]
