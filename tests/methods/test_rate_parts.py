"""The learned learning rate: what it may become, and the slope that carries its gradient."""

from __future__ import annotations

import pytest
import torch

from astdistill.methods.outer import LogSyntheticLr, RawSyntheticLr, SyntheticLr

INITIAL = 0.02


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize(
    "synthetic_lr", [LogSyntheticLr(), RawSyntheticLr()], ids=lambda synthetic_lr: type(synthetic_lr).__name__
)
def test_it_starts_at_the_initial_rate_with_slope_one(synthetic_lr: SyntheticLr) -> None:
    assert float(synthetic_lr.value(number(INITIAL), INITIAL)) == pytest.approx(INITIAL, rel=1e-12)
    assert float(synthetic_lr.slope(number(INITIAL), INITIAL)) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(
    "synthetic_lr", [LogSyntheticLr(), RawSyntheticLr()], ids=lambda synthetic_lr: type(synthetic_lr).__name__
)
@pytest.mark.parametrize("phi", [-0.1, -0.02, 0.0, 0.01, 0.02, 0.05, 0.2])
def test_the_slope_is_the_derivative(synthetic_lr: SyntheticLr, phi: float) -> None:
    eps = 1e-7
    difference = (synthetic_lr.value(number(phi + eps), INITIAL) - synthetic_lr.value(number(phi - eps), INITIAL)) / (
        2 * eps
    )
    assert float(synthetic_lr.slope(number(phi), INITIAL)) == pytest.approx(float(difference), rel=1e-6)


def test_the_logarithm_keeps_the_rate_positive_and_rising() -> None:
    values = [float(LogSyntheticLr().value(number(phi / 100), INITIAL)) for phi in range(-200, 20)]
    assert min(values) > 0
    assert values == sorted(values)


def test_the_raw_rate_is_the_number_itself_and_a_copy() -> None:
    phi = number(-0.5)
    value = RawSyntheticLr().value(phi, INITIAL)
    assert float(value) == -0.5
    value += 1
    assert float(phi) == -0.5
