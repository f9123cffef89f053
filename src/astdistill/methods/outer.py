"""Which outer steps are taken, and how the learned learning rate η stays positive."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from pydantic import Field

from ..runtime.config import Component
from ..runtime.shapes import Scalar
from .unroll import MetaGradient

FINITE = "finite "
"""Prefix of the name of each derivative in `StepFilter.measures`."""


class StepFilter(Component):
    """Accepts every step whose loss and derivatives are finite; all others are skipped, counted and logged with the
    reason.

    The decision uses numbers on the host. `measures` lists what has to be read, so that a run can read everything about
    a step at once: reading a tensor of an accelerator waits for all the work before it.
    """

    def measures(self, gradient: MetaGradient) -> dict[str, Scalar]:
        """Scalars on the gradient's device, by name, among them the `loss`: all that the decision depends on.

        Args:
            gradient: The loss and its derivatives.
        """
        return {"loss": gradient.loss} | {
            FINITE + name: derivative.isfinite().all() for name, derivative in gradient.items()
        }

    def __call__(self, seen: Mapping[str, float]) -> str | None:
        """None if the step may be taken, otherwise the reason why not.

        Args:
            seen: The numbers of `measures`, by name.
        """
        if not math.isfinite(seen["loss"]):
            return f"the loss is {seen['loss']}"
        for name, value in seen.items():
            if name.startswith(FINITE) and not value:
                return f"the derivative with respect to the {name.removeprefix(FINITE)} is not finite"
        return None

    def passes(self, seen: Mapping[str, float]) -> str | None:
        """None, or the reason why a step that could be taken is passed over; this is not a failure and is counted
        separately.

        Args:
            seen: The numbers of `measures`, by name.
        """
        return None


class LossThreshold(StepFilter):
    """Passes over steps whose loss is above a threshold (DATM, arXiv 2310.05773, as released); losses that are not
    finite remain failures."""

    threshold: float = Field(default=1.0, gt=0)
    """Outer steps with a larger loss are left out. A student that does not move has loss 1, or the number of matched
    epochs where the loss is a sum over them."""

    def passes(self, seen: Mapping[str, float]) -> str | None:
        if seen["loss"] > self.threshold:
            return f"the loss {seen['loss']:.4g} is above {self.threshold:g}"
        return None


class SyntheticLr(Component):
    """η as a function of the number φ that the outer optimiser moves; φ starts at the initial learning rate η_0."""

    def value(self, phi: Scalar, initial: float) -> Scalar:
        """η(φ).

        Args:
            phi: φ, a scalar.
            initial: η_0, above 0.
        """
        raise NotImplementedError

    def slope(self, phi: Scalar, initial: float) -> Scalar:
        """dη/dφ, by which dL/dη is multiplied.

        Args:
            phi: φ, a scalar.
            initial: η_0, above 0.
        """
        raise NotImplementedError


class LogSyntheticLr(SyntheticLr):
    """η = η_0 exp(φ/η_0 − 1): always positive, and of slope 1 at the start, so that a published lr_lr keeps its
    meaning."""

    def value(self, phi: Scalar, initial: float) -> Scalar:
        return initial * torch.exp(phi / initial - 1)

    def slope(self, phi: Scalar, initial: float) -> Scalar:
        return torch.exp(phi / initial - 1)


class RawSyntheticLr(SyntheticLr):
    """η = φ, as in the published codes: an outer step that would make it negative is refused and counted."""

    def value(self, phi: Scalar, initial: float) -> Scalar:
        return phi.clone()

    def slope(self, phi: Scalar, initial: float) -> Scalar:
        return torch.ones_like(phi)
