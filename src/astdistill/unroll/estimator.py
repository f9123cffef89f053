"""The seam between a problem and the way its gradient is taken."""

from __future__ import annotations

from typing import ClassVar

from ..records import Part
from ..shapes import Params
from .inner import InnerLoop, MetaGradient, Variables
from .objective import Objective


class Estimator(Part):
    """(InnerLoop, start, Variables, Objective) → MetaGradient. Any estimator runs on any inner loop and objective."""

    exact: ClassVar[bool] = False
    """Whether the result is the true derivative, up to rounding."""

    def __call__(self, inner: InnerLoop, start: Params, variables: Variables, objective: Objective) -> MetaGradient:
        """The meta-gradient at `variables` of the objective of the students that start from `start`, `[P]`."""
        raise NotImplementedError
