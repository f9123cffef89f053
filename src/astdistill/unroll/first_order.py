"""TESLA's gradient: constant memory, one mixed derivative a step, and approximate."""

from __future__ import annotations

from ..shapes import Params
from .estimator import Estimator
from .inner import InnerLoop, MetaGradient, Variables
from .objective import Objective
from .recompute import walk_back


class FirstOrder(Estimator):
    """Approximate: drops θ's dependence on the images of earlier steps (TESLA, arXiv 2211.10586, §3).

    Exact for T = 1; for longer unrolls its direction drifts from the true one (cosine 0.997 to 0.76 on a toy network, METHOD §3).
    """

    def __call__(self, inner: InnerLoop, start: Params, variables: Variables, objective: Objective) -> MetaGradient:
        return walk_back(inner, start, variables, objective, steps=inner.plan.steps, curvature=False)
