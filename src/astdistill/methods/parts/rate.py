"""How the learned step size η is written, so that it stays positive."""

from __future__ import annotations

import torch

from ...records import Part
from ...shapes import Scalar


class Rate(Part):
    """η as a function of the number φ that the outer optimiser moves; φ starts at the initial rate η_0."""

    def value(self, phi: Scalar, initial: float) -> Scalar:
        """η(φ)."""
        raise NotImplementedError

    def slope(self, phi: Scalar, initial: float) -> Scalar:
        """dη/dφ, by which dL/dη is multiplied."""
        raise NotImplementedError


class LogRate(Rate):
    """η = η_0 exp(φ/η_0 − 1): always positive, and of slope 1 at the start, so that a published lr_lr keeps its meaning."""

    def value(self, phi: Scalar, initial: float) -> Scalar:
        return initial * torch.exp(phi / initial - 1)

    def slope(self, phi: Scalar, initial: float) -> Scalar:
        return torch.exp(phi / initial - 1)


class RawRate(Rate):
    """η = φ, as in the published codes: an outer step that would make it negative is refused and counted."""

    def value(self, phi: Scalar, initial: float) -> Scalar:
        return phi.clone()

    def slope(self, phi: Scalar, initial: float) -> Scalar:
        return torch.ones_like(phi)
