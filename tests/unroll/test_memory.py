"""Constant memory: what autograd keeps alive does not grow with the number of inner steps, except in the oracle, where
it does."""

from __future__ import annotations

import pytest
from problems import problem
from weighing import saved_bytes

from astdistill.methods import unroll as plan
from astdistill.methods.estimators import Backprop, Estimator, FirstOrder, Recompute, Truncated


def peak(estimator: Estimator, steps: int) -> int:
    """The most bytes that graphs hold at once during one meta-gradient of `steps` inner steps."""
    case = problem(steps=steps, read=(steps,), augment=False)
    return saved_bytes(lambda: estimator(case.inner, case.start, case.variables, case.objective) and None)


@pytest.mark.parametrize(
    "estimator", [Recompute(), FirstOrder(), Truncated(k=3)], ids=lambda estimator: type(estimator).__name__
)
def test_graphs_do_not_grow_with_the_unroll(estimator: Estimator, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a fiftieth of the oracle's growth, which is what the counting itself holds back: a norm's small outputs, in
    reference cycles.

    Images of several steps are augmented together up to a fixed number of bytes, here less than four steps'.
    """
    monkeypatch.setattr(plan, "AT_ONCE", 1000)
    oracle = peak(Backprop(), 24) - peak(Backprop(), 4)
    assert oracle > 4 * peak(Backprop(), 4)
    assert peak(estimator, 24) - peak(estimator, 4) < oracle / 50
