"""Objectives: which students are read, and by what each term is divided."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from astdistill.experts.store import Segment
from astdistill.methods.matching import (
    FinalMatchingLoss,
    IntermediateMatchingLoss,
    IntermediateMatchingLossAsReleased,
    Matching,
    MatchingLoss,
    NearestMatchingLoss,
    Objective,
    cotangents,
)
from astdistill.methods.outer import LossThreshold, StepFilter
from astdistill.methods.unroll import MetaGradient
from astdistill.runtime.devices import read
from astdistill.runtime.errors import InputError
from astdistill.runtime.seeds import rng

CASES = [(20, 3), (20, 2), (30, 2), (10, 4), (7, 3), (5, 2), (3, 3), (80, 2), (9, 1)]


def segment(matched: int = 3, size: int = 11) -> Segment:
    rows = torch.randn(matched + 1, size, generator=rng(0, "rows"), dtype=torch.float64)
    return Segment(0, 4, rows[0], rows[1:])


def steps_of(objective: Objective) -> tuple[int, ...]:
    assert isinstance(objective, Matching)
    return objective.at


def verdict(step_filter: StepFilter, gradient: MetaGradient) -> str | None:
    """Why the step is not taken, by what the part itself asks to be read."""
    return step_filter(read(step_filter.measures(gradient)))


def squared(difference: Tensor) -> float:
    return sum(value * value for value in difference.tolist())


@pytest.mark.parametrize(("steps", "matched"), CASES)
def test_the_sound_steps_are_rounded_shares(steps: int, matched: int) -> None:
    found = IntermediateMatchingLoss().at(steps, matched)
    shares = [Fraction(j * steps, matched) for j in range(1, matched + 1)]
    assert all(abs(step - share) <= Fraction(1, 2) for step, share in zip(found, shares, strict=True))
    assert found[-1] == steps
    assert list(found) == sorted(set(found))
    assert found[0] >= 1


def test_the_sound_steps_written_out() -> None:
    assert IntermediateMatchingLoss().at(20, 3) == (7, 13, 20)
    assert IntermediateMatchingLoss().at(30, 2) == (15, 30)
    assert IntermediateMatchingLoss().at(5, 2) == (3, 5)  # a half goes up


@pytest.mark.parametrize(("steps", "matched"), CASES)
def test_the_released_steps_are_whole_strides_and_the_end(steps: int, matched: int) -> None:
    found = IntermediateMatchingLossAsReleased().at(steps, matched)
    assert found == tuple([(steps // matched) * j for j in range(1, matched)] + [steps])


def test_the_released_steps_written_out() -> None:
    assert IntermediateMatchingLossAsReleased().at(20, 3) == (6, 12, 20)


def test_the_final_goal_is_the_ratio_of_mtt() -> None:
    part, start = segment(), torch.randn(11, dtype=torch.float64, generator=rng(1))
    objective = FinalMatchingLoss()(part, start, 20)
    student = torch.randn(11, dtype=torch.float64, generator=rng(2))
    assert steps_of(objective) == (20,)
    wanted = squared(student - part.checkpoints[2]) / squared(part.start - part.checkpoints[2])
    assert float(objective([student])) == pytest.approx(wanted, rel=1e-12)
    assert float(objective([part.start])) == pytest.approx(1.0)
    assert float(objective([part.checkpoints[2]])) == 0.0


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("beta", ["one", "adaptive"])
def test_the_intermediate_goal_is_the_sum_over_epochs(released: bool, beta: str) -> None:
    """As released, the denominators take the perturbed start; soundly, the expert's own."""
    part, start = segment(), torch.randn(11, dtype=torch.float64, generator=rng(1))
    kind = IntermediateMatchingLossAsReleased if released else IntermediateMatchingLoss
    objective = kind.model_validate({"beta": beta, "origin": "student" if released else "expert"})(part, start, 20)
    students = list(torch.randn(3, 11, dtype=torch.float64, generator=rng(2)))
    origin = start if released else part.start
    wanted = 0.0
    for j in (1, 2, 3):
        factor = j / 3 if beta == "adaptive" else 1.0
        wanted += (
            factor * squared(students[j - 1] - part.checkpoints[j - 1]) / squared(origin - part.checkpoints[j - 1])
        )
    assert float(objective(students)) == pytest.approx(wanted, rel=1e-6)
    assert steps_of(objective) == ((6, 12, 20) if released else (7, 13, 20))


def test_with_one_matched_epoch_both_goals_agree() -> None:
    part = segment(1)
    student = torch.randn(11, dtype=torch.float64, generator=rng(2))
    first, second = (
        matching_loss(part, part.start, 9) for matching_loss in (FinalMatchingLoss(), IntermediateMatchingLoss())
    )
    assert steps_of(first) == steps_of(second) == (9,)
    assert float(first([student])) == pytest.approx(float(second([student])), rel=1e-12)


@pytest.mark.parametrize(
    "matching_loss",
    [IntermediateMatchingLoss(), IntermediateMatchingLossAsReleased()],
    ids=lambda matching_loss: type(matching_loss).__name__,
)
def test_too_few_inner_steps_are_refused(matching_loss: MatchingLoss) -> None:
    matching_loss.check(3, 3)
    with pytest.raises(
        InputError,
        match=r"2 inner steps cannot visit 3 matched epochs; choose --method\.step\.syn-steps of at least 3, or --without",
    ):
        matching_loss.check(2, 3)
    FinalMatchingLoss().check(1, 3)


@pytest.mark.parametrize(
    ("broken", "value", "cause"),
    [
        ("loss", "nan", "the loss is nan"),
        ("loss", "inf", "the loss is inf"),
        ("images", "nan", "the derivative with respect to the images is not finite"),
        ("targets", "inf", "the derivative with respect to the targets is not finite"),
        ("lr", "-inf", "the derivative with respect to the lr is not finite"),
    ],
)
def test_steps_that_are_not_finite_are_refused_with_the_cause(broken: str, value: str, cause: str) -> None:
    good = {
        "loss": torch.tensor(1.0),
        "images": torch.ones(2, 1, 2, 2),
        "targets": torch.ones(2, 3),
        "lr": torch.tensor(-1.0),
    }
    assert verdict(StepFilter(), MetaGradient(**good)) is None
    bad = good[broken].clone()
    bad.flatten()[-1] = float(value)
    assert verdict(StepFilter(), MetaGradient(**good | {broken: bad})) == cause


@pytest.mark.parametrize("nearest", [1, 4, 7])
@pytest.mark.parametrize("origin", ["expert", "student"])
def test_the_nearest_goal_is_the_least_of_a_loop(nearest: int, origin: str) -> None:
    part, start = segment(), torch.randn(11, dtype=torch.float64, generator=rng(1))
    students = list(torch.randn(7, 11, dtype=torch.float64, generator=rng(2)))
    students[nearest - 1] = part.checkpoints[-1] + 0.1 * students[nearest - 1]
    objective = NearestMatchingLoss.model_validate({"origin": origin})(part, start, 7)
    assert objective.at == (1, 2, 3, 4, 5, 6, 7)
    below = squared((part.start if origin == "expert" else start) - part.checkpoints[-1])
    least = float("inf")
    for student in students:
        least = min(least, squared(student - part.checkpoints[-1]) / below)
    assert float(objective(students)) == pytest.approx(least, rel=1e-12)
    _, slopes = cotangents(objective, dict(enumerate([start, *students])))
    assert set(slopes) == {nearest}
    torch.testing.assert_close(slopes[nearest], 2 * (students[nearest - 1] - part.checkpoints[-1]) / below)


@pytest.mark.parametrize(("loss", "passed"), [(0.5, None), (1.1, None), (1.2, "the loss 1.2 is above 1.1")])
def test_a_threshold_passes_over_large_losses(loss: float, passed: str | None) -> None:
    step_filter = LossThreshold(threshold=1.1)
    found = MetaGradient(
        torch.tensor(loss, dtype=torch.float64), torch.ones(2, 1, 2, 2), torch.ones(2, 3), torch.tensor(-1.0)
    )
    assert verdict(step_filter, found) is None
    assert step_filter.passes(read(step_filter.measures(found))) == passed
    assert StepFilter().passes(read(StepFilter().measures(found))) is None


@pytest.mark.parametrize("loss", ["nan", "inf"])
def test_a_threshold_does_not_hide_what_is_not_finite(loss: str) -> None:
    found = MetaGradient(torch.tensor(float(loss)), torch.ones(2, 1, 2, 2), torch.ones(2, 3), torch.tensor(-1.0))
    assert verdict(LossThreshold(), found) == f"the loss is {loss}"
