"""What is measured while an expert trains: how good it is, and how far it moves."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ExpertCurve:
    """One expert, one number an epoch, epochs 1 … E; the lists grow while it trains."""

    train_accuracy: list[float] = field(default_factory=list)
    """Percent, on the augmented training batches as they came."""
    test_accuracy: list[float] = field(default_factory=list)
    """Percent, on the test images; shown, never used to choose anything."""
    step_squared: list[float] = field(default_factory=list)
    """‖θ*_e − θ*_{e−1}‖²: AST's measure of smoothness."""
