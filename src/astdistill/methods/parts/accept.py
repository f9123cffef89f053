"""Which outer steps are taken: the policies for losses that are not finite, and for those that are too large."""

from __future__ import annotations

from pydantic import Field

from ...records import Part
from ...unroll import MetaGradient


class Accept(Part):
    """Takes every step whose loss and derivatives are finite; anything else is skipped, counted and named."""

    def __call__(self, gradient: MetaGradient) -> str:
        """Empty when the step is to be taken, otherwise why it is not."""
        if not bool(gradient.loss.isfinite()):
            return f"the loss is {float(gradient.loss)}"
        names = [name for name in ("images", "targets", "lr") if not bool(getattr(gradient, name).isfinite().all())]
        return f"the derivative with respect to the {names[0]} is not finite" if names else ""

    def passes(self, gradient: MetaGradient) -> str:
        """Empty, or why a step that could be taken is passed over; this is no failure, and is counted apart."""
        return ""


class LossThreshold(Accept):
    """Passes over steps whose loss is above a threshold (DATM, arXiv 2310.05773, as released); losses that are not finite stay failures."""

    threshold: float = Field(default=1.0, gt=0)
    """Largest loss that is followed; 1 is that of a student that has stayed where it started."""

    def passes(self, gradient: MetaGradient) -> str:
        loss = float(gradient.loss)
        return f"the loss {loss:.4g} is above {self.threshold:g}" if loss > self.threshold else ""
