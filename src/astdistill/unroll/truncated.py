"""Truncated back-propagation: only the last k inner steps are differentiated."""

from __future__ import annotations

from pydantic import Field

from ..shapes import Params
from .estimator import Estimator
from .inner import InnerLoop, MetaGradient, Variables
from .objective import Objective
from .recompute import walk_back


class Truncated(Estimator):
    """Approximate: the student after T − k steps counts as a constant; exact when k ≥ T.

    Terms of the objective that read students at or before step T − k enter the loss but not the gradient.
    """

    k: int = Field(default=10, ge=1)
    """How many of the last inner steps are differentiated."""

    def __call__(self, inner: InnerLoop, start: Params, variables: Variables, objective: Objective) -> MetaGradient:
        return walk_back(inner, start, variables, objective, steps=min(self.k, inner.plan.steps))
