"""Evaluation: fresh networks trained on a few images under a named protocol, beside the same networks on real
images."""

from .continual import Continual, continual, continual_table
from .dd_ranking import Ranking, rank, ranking_table
from .per_class import by_class, confusions
from .protocol import AST_RELEASED_PROTOCOL, MTT_PROTOCOL, POOLS, PROTOCOLS, EvalRecipe, architectures, protocol
from .rate_search import rates_table, search_rates
from .rows import check_names, herding_real, kcenter_real, kmeans_real, random_real
from .runner import evaluate, evaluate_all
from .scores import (
    LABELS,
    RowScores,
    Scores,
    SearchedRate,
    SetInfo,
    Taught,
    networks_text,
    protocol_text,
    spread,
    table,
    taught_table,
)
from .teacher import Teacher, TeacherInfo
from .training import NetworkResult, TensorExamples, train_epochs

__all__ = [
    "AST_RELEASED_PROTOCOL",
    "LABELS",
    "MTT_PROTOCOL",
    "POOLS",
    "PROTOCOLS",
    "Continual",
    "EvalRecipe",
    "NetworkResult",
    "Ranking",
    "RowScores",
    "Scores",
    "SearchedRate",
    "SetInfo",
    "Taught",
    "Teacher",
    "TeacherInfo",
    "TensorExamples",
    "architectures",
    "by_class",
    "check_names",
    "confusions",
    "continual",
    "continual_table",
    "evaluate",
    "evaluate_all",
    "herding_real",
    "kcenter_real",
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
    "taught_table",
    "train_epochs",
]
