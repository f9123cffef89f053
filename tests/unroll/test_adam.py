"""Students that Adam trains: the walk back through their last steps against double backward, a prefix included."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import reference
import torch
from problems import Problem, problem
from torch import Tensor

from astdistill.autodiff.dispatch import engine_name, using
from astdistill.methods import student_optimisers
from astdistill.methods.estimators import Backprop, Recompute, Truncated
from astdistill.methods.matching import Matching
from astdistill.methods.student_optimisers import Adam, above_rounding
from astdistill.methods.unroll import InnerLoop, Variables, draw_plan
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime.seeds import rng

STEPS = 7
BEFORE_NORM = ("features.0.bias", "features.4.bias")
"""The biases of a ConvNet's convolutions."""
CASES = [
    {"batch": batch, "soft": soft, "window": window}
    for batch, soft, window in itertools.product((None, 4), (False, True), (1, 3, STEPS))
]


def trained_by_adam(batch: int | None = None, soft: bool = False, steps: int = STEPS) -> Problem:
    """A float64 problem whose network has a bias before instance norm: its second moments are rounding."""
    case = problem(steps=steps, batch=batch, soft=soft, read=(steps,))
    return replace(case, inner=replace(case.inner, optimiser=Adam()))


@dataclass(frozen=True)
class OnOtherImages:
    """The cross-entropy of the last student on images of its own."""

    inner: InnerLoop
    at: tuple[int, ...] = (STEPS,)

    def __call__(self, students: Sequence[Tensor]) -> Tensor:
        images = torch.randn(9, 2, 6, 6, generator=rng(5, "others"), dtype=torch.float64)
        return torch.nn.functional.cross_entropy(self.inner.model(students[0], images), torch.arange(9) % 3)


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("fields", CASES, ids=str)
def test_the_window_after_a_prefix_is_double_backward(fields: dict) -> None:
    fields = dict(fields)
    window = fields.pop("window")
    case = trained_by_adam(**fields)
    wanted = reference.adam_window_gradient(case.inner, case.start, case.variables, case.objective, window)
    found = Truncated(k=window)(case.inner, case.start, case.variables, case.objective)
    for fast, slow in zip((found.images, found.targets, found.lr), wanted, strict=True):
        assert error(fast, slow) < 1e-9


def test_without_a_prefix_every_exact_estimator_agrees() -> None:
    case = trained_by_adam(batch=4)
    wanted = reference.adam_window_gradient(case.inner, case.start, case.variables, case.objective, STEPS)
    for estimator in (Recompute(), Backprop()):
        found = estimator(case.inner, case.start, case.variables, case.objective)
        for fast, slow in zip((found.images, found.targets, found.lr), wanted, strict=True):
            assert error(fast, slow) < 1e-9


def test_the_gradient_is_that_of_finite_differences() -> None:
    """Along one direction in images, labels and η, for all steps; those of a prefix would move too.

    Of a loss on other images, on which the noise in biases before a norm has no influence.
    """
    case = trained_by_adam(batch=4, soft=True)
    case = replace(case, objective=OnOtherImages(case.inner))
    generator = rng(3, "direction")
    along = [torch.randn(part.shape, generator=generator, dtype=part.dtype) for part in case.variables.values()]
    along[2] = along[2] * 0.01

    def loss(sign: float) -> Tensor:
        moved = (part + sign * 1e-5 * way for part, way in zip(case.variables.values(), along, strict=True))
        students = case.inner.trajectory(case.start, Variables(*moved)).students
        return case.objective([students[STEPS]])

    found = Recompute()(case.inner, case.start, case.variables, case.objective)
    slope = sum((part * way).sum() for part, way in zip(found.values(), along, strict=True))
    assert float(slope) == pytest.approx(float(loss(1) - loss(-1)) / 2e-5, rel=1e-6)


def test_labels_that_are_weights_need_not_add_up_to_one() -> None:
    case = trained_by_adam()
    targets = 2 * torch.rand(6, 3, generator=rng(1, "weights"), dtype=torch.float64)
    case = replace(case, variables=case.variables.replace(targets=targets))
    case = replace(case, inner=replace(case.inner, labels="weights"))
    wanted = reference.adam_window_gradient(case.inner, case.start, case.variables, case.objective, 4)
    found = Truncated(k=4)(case.inner, case.start, case.variables, case.objective)
    for fast, slow in zip((found.images, found.targets, found.lr), wanted, strict=True):
        assert error(fast, slow) < 1e-9


@pytest.mark.parametrize("engine", ["eager", "native"])
def test_biases_before_instance_norm_do_not_make_rounding_large(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, where their gradients are noise (eager) or zero (native), against float64; images of little
    contrast."""
    model = FlatModel(build_model("convnet-d2-w32", (1, 8, 8), 3, seed=0))
    images = torch.randn(6, 1, 8, 8, generator=rng(0, "images")) / 8
    variables = Variables(images, torch.eye(3).repeat(2, 1), torch.tensor(1e-3))
    double = Variables(**{name: part.double() for name, part in variables.items()})
    plan = draw_plan(8, 6, None, "", (1, 8, 8), rng(0, "plan"))
    goal = model.flatten() + 0.01 * torch.randn(model.size, generator=rng(0, "goal"))
    inner = InnerLoop(model, plan, optimiser=Adam())

    def taken(variables: Variables) -> Tensor:
        to = goal.to(variables.images)
        objective = Matching((8,), to[None], to.new_ones(1))
        return Truncated(k=5)(inner, model.flatten().to(to), variables, objective).images.double()

    with using(engine):
        assert engine_name(model, model.flatten(), images) == engine
        found = taken(variables)
        clear = above_rounding(inner.trajectory(model.flatten(), variables, 7).kept[7][1])
    wanted = taken(double)
    biases = [number for number, name in enumerate(model.unflatten(model.flatten())) if name in BEFORE_NORM]
    assert len(biases) == 2
    for number, place in enumerate(model.layers):
        assert bool(clear[place].any() if number not in biases else ~clear[place].any())
    assert float(clear.float().mean()) > 1 - 64.5 / model.size
    assert error(found, wanted) < 1e-4
    if engine == "eager":
        monkeypatch.setattr(student_optimisers, "ROUNDING", 0.0)
        with using(engine):
            assert error(taken(variables), wanted) > 2 * error(found, wanted)


def test_each_step_of_the_window_keeps_four_vectors_and_a_step_of_the_prefix_nothing() -> None:
    """Bytes of everything that the walk holds, each storage once."""

    def kept(steps: int, window: int) -> int:
        case = trained_by_adam(steps=steps)
        trajectory = case.inner.trajectory(case.start, case.variables, steps - window, case.objective.at)
        tensors = [*trajectory.students.values(), *(part for each in trajectory.kept.values() for part in each)]
        storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
        return sum(storages.values())

    vector = 8 * len(trained_by_adam().start)
    assert kept(20, 9) - kept(20, 5) == 4 * 4 * vector
    assert kept(20, 5) == kept(9, 5)
