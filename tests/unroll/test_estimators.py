"""Every estimator against the oracle, in float64, for every combination of what a method may ask for."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import reference
import torch
from problems import Problem, problem
from torch import Tensor

from astdistill.data.textures import CircularCrops, TextureSpec
from astdistill.methods.estimators import Backprop, Estimator, FirstOrder, Recompute, Truncated
from astdistill.methods.matching import Nearest
from astdistill.methods.unroll import MetaGradient, Variables
from astdistill.runtime.seeds import rng

CASES = [
    {"momentum": momentum, "read": read, "batch": batch, "soft": soft}
    for momentum, read, batch, soft in itertools.product((0.0, 0.9), ((4,), (1, 3, 4)), (None, 4), (False, True))
]
CASES += [
    {
        "momentum": 0.9,
        "read": (1, 3, 4),
        "batch": batch,
        "soft": soft,
        "texture": TextureSpec(canvas=canvas, samples=samples),
    }
    for batch, soft, canvas, samples in ((None, False, 2, 1), (4, True, 2, 3), (4, False, 3, 2))
]
EXACT = {
    "backprop": Backprop(),
    "recompute": Recompute(),
    "truncated-all": Truncated(k=9),
}


def run(estimator: Estimator, case: Problem) -> MetaGradient:
    return estimator(case.inner, case.start, case.variables, case.objective)


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("estimator", EXACT.values(), ids=EXACT.keys())
@pytest.mark.parametrize("fields", CASES, ids=str)
def test_exact_estimators_equal_the_oracle(estimator: Estimator, fields: dict) -> None:
    case = problem(**fields)
    images, targets, lr = reference.unrolled_gradient(case.inner, case.start, case.variables, case.objective)
    found = run(estimator, case)
    assert error(found.images, images) < 1e-9
    assert error(found.targets, targets) < 1e-9
    assert error(found.lr, lr) < 1e-9
    loss = reference.unrolled_loss(case.inner, case.start, case.variables, case.objective)
    assert float(found.loss) == pytest.approx(float(loss.detach()), rel=1e-12)


@pytest.mark.parametrize("fields", CASES, ids=str)
def test_recompute_matches_finite_differences(fields: dict) -> None:
    case = problem(**fields)
    generator = rng(0, "direction")
    along = Variables(
        torch.randn(case.variables.images.shape, generator=generator, dtype=torch.float64),
        torch.randn(case.variables.targets.shape, generator=generator, dtype=torch.float64),
        torch.tensor(0.02, dtype=torch.float64),
    )
    found = run(Recompute(), case)
    slope = float((found.images * along.images).sum() + (found.targets * along.targets).sum() + found.lr * along.lr)
    assert slope == pytest.approx(
        reference.difference(case.inner, case.start, case.variables, case.objective, along), rel=1e-6
    )


@pytest.mark.parametrize("fields", CASES, ids=str)
def test_first_order_is_the_gradient_with_constant_students(fields: dict) -> None:
    case = problem(**fields)
    images, targets, lr = reference.first_order_gradient(case.inner, case.start, case.variables, case.objective)
    found = run(FirstOrder(), case)
    assert error(found.images, images) < 1e-9
    assert error(found.targets, targets) < 1e-9
    assert error(found.lr, lr) < 1e-9


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("fields", CASES, ids=str)
def test_truncated_is_the_gradient_with_a_constant_past(fields: dict, k: int) -> None:
    case = problem(**fields)
    images, targets, lr = reference.truncated_gradient(case.inner, case.start, case.variables, case.objective, k)
    found = run(Truncated(k=k), case)
    assert error(found.images, images) < 1e-9
    assert error(found.targets, targets) < 1e-9
    assert error(found.lr, lr) < 1e-9


def test_approximate_estimators_differ_from_the_exact_one_and_say_so() -> None:
    case = problem(momentum=0.9)
    exact = run(Recompute(), case)
    for estimator in (FirstOrder(), Truncated(k=2)):
        assert not estimator.exact
        assert error(run(estimator, case).images, exact.images) > 1e-3
    assert Recompute().exact
    assert Backprop().exact


def test_truncation_is_exact_where_earlier_steps_saw_other_images() -> None:
    """With one image a step, images of the last k steps get their true gradient and the others none."""
    case = problem(steps=3, batch=1, momentum=0.9, read=(3,), augment=False)
    plan = replace(case.inner.plan, indices=torch.tensor([[4], [1], [2]]))
    case = replace(case, inner=replace(case.inner, plan=plan))
    exact, found = run(Recompute(), case), run(Truncated(k=1), case)
    last = int(case.inner.plan.indices[-1])
    assert error(found.images[last], exact.images[last]) < 1e-9
    others = [index for index in range(6) if index != last]
    assert float(found.images[others].abs().sum()) == 0.0


@pytest.mark.parametrize("nearest", [2, 4, 5])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_nearest_student_of_an_unroll(nearest: int, momentum: float) -> None:
    """ATT: the walk back begins at the student that the objective selects, wherever it lies."""
    case = problem(steps=5, momentum=momentum, batch=4)
    student = case.inner.trajectory(case.start, case.variables).students[nearest]
    target = student + 1e-3 * torch.randn(len(student), generator=rng(0, "target"), dtype=torch.float64)
    objective = Nearest((1, 2, 3, 4, 5), target, torch.tensor(1.7, dtype=torch.float64))
    arguments = (case.inner, case.start, case.variables, objective)
    for estimator, wanted in (
        (Recompute(), reference.unrolled_gradient(*arguments)),
        (Backprop(), reference.unrolled_gradient(*arguments)),
        (FirstOrder(), reference.first_order_gradient(*arguments)),
        (Truncated(k=4), reference.truncated_gradient(*arguments, 4)),
    ):
        found = estimator(*arguments)
        for fast, slow in zip((found.images, found.targets, found.lr), wanted, strict=True):
            assert error(fast, slow) < 1e-9
    assert float(Recompute()(*arguments).loss) == pytest.approx(
        1.7 * float((student - target).square().sum()), rel=1e-9
    )
    if nearest == 2:
        assert float(Truncated(k=2)(*arguments).images.abs().sum()) == 0.0


def test_the_mean_of_meta_gradients() -> None:
    parts = [run(Recompute(), problem(momentum=momentum)) for momentum in (0.0, 0.5, 0.9)]
    found = MetaGradient.mean(parts)
    for name in ("loss", "images", "targets", "lr"):
        torch.testing.assert_close(
            getattr(found, name), (getattr(parts[0], name) + getattr(parts[1], name) + getattr(parts[2], name)) / 3
        )
        assert torch.equal(getattr(MetaGradient.mean(parts[:1]), name), getattr(parts[0], name))


def test_a_canvas_learns_at_every_pixel_that_was_seen() -> None:
    """With flips alone, a pixel has a derivative exactly if one of the drawn crops holds it."""
    case = problem(steps=3, texture=TextureSpec(canvas=3), read=(3,))
    seen = torch.zeros(case.variables.images.shape[0], 18, 18, dtype=torch.bool)
    for chosen, crops in zip(case.inner.plan.indices, case.inner.plan.crops, strict=True):
        assert isinstance(crops, CircularCrops)
        for image, row, column in zip(chosen.tolist(), crops.rows.tolist(), crops.columns.tolist(), strict=True):
            seen[image] |= (((torch.arange(18) - row) % 18 < 6)[:, None]) & ((torch.arange(18) - column) % 18 < 6)
    assert 0 < int(seen.sum()) < seen.numel()
    assert torch.equal((run(Recompute(), case).images != 0).any(dim=1), seen)


def test_a_shifted_canvas_with_shifted_crops_is_the_same_problem() -> None:
    """The torus has no place of its own: circular shifts of X and of the drawn corners change nothing but where the
    derivative lies."""
    case = problem(texture=TextureSpec(canvas=2, samples=2), batch=4)
    shift = (5, -3)
    crops = tuple(
        CircularCrops(each.size, each.rows + shift[0], each.columns + shift[1])
        for each in case.inner.plan.crops
        if isinstance(each, CircularCrops)
    )
    assert len(crops) == case.inner.plan.steps
    moved = replace(
        case,
        inner=replace(case.inner, plan=replace(case.inner.plan, crops=crops)),
        variables=case.variables.replace(images=case.variables.images.roll(shift, (2, 3))),
    )
    found, wanted = run(Recompute(), moved), run(Recompute(), case)
    assert torch.equal(found.loss, wanted.loss)
    assert torch.equal(found.lr, wanted.lr)
    assert torch.equal(found.images, wanted.images.roll(shift, (2, 3)))


def test_same_plan_same_bits() -> None:
    case = problem()
    first, second = run(Recompute(), case), run(Recompute(), case)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.lr, second.lr)


def test_estimators_leave_their_inputs_alone() -> None:
    case = problem()
    images, start = case.variables.images.clone(), case.start.clone()
    for estimator in (*EXACT.values(), FirstOrder()):
        found = run(estimator, case)
        assert not found.images.requires_grad
    assert torch.equal(case.variables.images, images)
    assert torch.equal(case.start, start)
    assert not case.variables.images.requires_grad
