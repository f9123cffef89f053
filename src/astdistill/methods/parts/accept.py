"""Which outer steps are taken: the policy for losses that are not finite, or too large."""

from __future__ import annotations

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
