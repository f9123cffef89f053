"""The unrolled inner problem and the estimators of its meta-gradient."""

from .backprop import Backprop
from .estimator import Estimator
from .first_order import FirstOrder
from .inner import InnerLoop, MetaGradient, Variables
from .objective import Matching, Nearest, Objective
from .plan import Plan, draw_plan
from .recompute import Recompute
from .truncated import Truncated

__all__ = [
    "Backprop",
    "Estimator",
    "FirstOrder",
    "InnerLoop",
    "Matching",
    "MetaGradient",
    "Nearest",
    "Objective",
    "Plan",
    "Recompute",
    "Truncated",
    "Variables",
    "draw_plan",
]
