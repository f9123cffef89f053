"""RaT-BPTT and AT-BPTT++: an outer step written out in float64, where the window lies, what is kept, what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import reference
import torch
from problems import TINY, SmoothNet, blobs
from torch import Tensor
from torch.nn.functional import log_softmax

from astdistill.autodiff.dispatch import engine_of
from astdistill.data.augmentation import apply, draw
from astdistill.data.dataset import Dataset
from astdistill.data.synthetic import one_hot
from astdistill.data.textures import TextureSpec
from astdistill.distillation.loop import distill
from astdistill.distillation.settings import DistillSettings
from astdistill.evaluation.training import TensorExamples
from astdistill.methods import back_propagation_through_training as family
from astdistill.methods.back_propagation_through_training import (
    AT_BPTT,
    RAT_BPTT,
    AdaptiveTruncation,
    BackPropagationThroughTraining,
    curvature_of,
    standardised,
)
from astdistill.methods.initialisation import UnitNormInit, WeightLabels
from astdistill.methods.low_rank import LowRank
from astdistill.methods.method import Method
from astdistill.methods.outer_step import Setup, StepState
from astdistill.methods.student_optimisers import Adam
from astdistill.methods.unroll import InnerLoop, Variables, planned
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import load_tensors
from astdistill.runtime.seeds import derive, rng, seeded

SETTINGS = DistillSettings(augmentation="flip_rotate", lr_init=0.02)
SIZES = {"unroll": 7, "window": 3, "batch_real": 20}
SEED = 4


def numbered(method: Method, **numbers: Any) -> Method:
    return method.replace(step=method.step.replace(**SIZES | numbers))


def step_of(method: Method) -> BackPropagationThroughTraining:
    assert isinstance(method.step, BackPropagationThroughTraining)
    return method.step


def smooth_setup(method: Method, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """Everything in float64, with a smooth network whose parameters are drawn for every outer step."""
    data = blobs(shape=(2, 6, 6))

    def fresh(setup: Setup, seed: int, iteration: int) -> Tensor:
        with seeded(derive(seed, iteration), "fresh"):
            return FlatModel(SmoothNet().double()).flatten()

    monkeypatch.setattr(Setup, "fresh", fresh)
    return Setup(data, None, "", FlatModel(SmoothNet().double()), method, SETTINGS)


def variables_of(data: Dataset, ipc: int = 2) -> Variables:
    count, generator = ipc * len(data.classes), rng(1, "set")
    images = torch.randn(count, *data.shape, generator=generator, dtype=torch.float64)
    targets = one_hot(torch.arange(count) // ipc, len(data.classes)).double()
    targets = targets + 0.3 * torch.rand(targets.shape, generator=generator, dtype=torch.float64)
    return Variables(images, targets, torch.tensor(0.02, dtype=torch.float64))


class ByHand:
    """The mean cross-entropy on real images that were drawn and augmented as one batch."""

    def __init__(self, setup: Setup, size: int, iteration: int) -> None:
        data = setup.dataset
        epoch, number = divmod(iteration, len(data.train) // size)
        rows = torch.randperm(len(data.train), generator=rng(SEED, "real", epoch))[number * size : (number + 1) * size]
        drawn = draw("flip_rotate", size, data.shape, rng(SEED, "augmentation", iteration))
        self.images, self.labels = apply(data.train.batch(rows).double(), drawn), data.train.labels[rows]
        self.model = setup.model

    def __call__(self, students: list[Tensor]) -> Tensor:
        said = log_softmax(self.model(students[0], self.images), dim=1)
        return -said[torch.arange(len(self.labels)), self.labels].mean()


@pytest.mark.parametrize("iteration", [0, 2, 5])
@pytest.mark.parametrize("labels", ["hard", "weights"])
def test_an_outer_step_is_double_backward_through_its_window(
    iteration: int, labels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prefix, the window, the real images (in groups of 8 here), and no more than that."""
    monkeypatch.setattr(family, "TOGETHER", 8)
    method = numbered(RAT_BPTT, clip=0.0)
    if labels == "weights":
        method = method.replace(labels=WeightLabels(), learn=("images", "targets"))
    setup = smooth_setup(method, monkeypatch)
    variables = variables_of(setup.dataset)
    step = method.step
    found, _ = step.advance(setup, variables, step.begin(setup, variables, SEED), iteration, SEED)
    prefix = int(torch.randint(5, (), generator=rng(SEED, "window", iteration // 3)))
    whole = torch.arange(6).expand(7, 6)
    plan = planned(whole, "flip_rotate", setup.dataset.shape, rng(SEED, "plan", iteration)).first(prefix + 3)
    inner = InnerLoop(setup.model, plan, labels=method.labels.kind, optimiser=Adam())
    fixed = variables.replace(lr=torch.tensor(1e-3, dtype=torch.float64))
    objective = ByHand(setup, 20, iteration)
    images, targets, _ = reference.adam_window_gradient(inner, setup.fresh(SEED, iteration), fixed, objective, 3)
    assert float((found.images - images).norm() / images.norm()) < 1e-9
    assert set(found) == set(method.learn)
    if labels == "weights":
        assert float((found.targets - targets).norm() / targets.norm()) < 1e-9


def test_the_rate_of_adam_can_be_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    method = numbered(RAT_BPTT, clip=0.0, inner_lr=None, place="last").replace(learn=("images", "lr"))
    setup = smooth_setup(method, monkeypatch)
    variables = variables_of(setup.dataset)
    found, _ = method.step.advance(setup, variables, method.step.begin(setup, variables, SEED), 1, SEED)
    plan = planned(torch.arange(6).expand(7, 6), "flip_rotate", setup.dataset.shape, rng(SEED, "plan", 1))
    inner = InnerLoop(setup.model, plan, optimiser=Adam())
    wanted = reference.adam_window_gradient(inner, setup.fresh(SEED, 1), variables, ByHand(setup, 20, 1), 3)
    assert float(found.lr) == pytest.approx(float(wanted[2]), rel=1e-9)


def test_the_network_is_never_differentiated_by_torch_where_kernels_can(monkeypatch: pytest.MonkeyPatch) -> None:
    data = blobs(shape=(1, 8, 8))
    model = FlatModel(build_model("convnet-d2-w32", data.shape, 3))
    method = numbered(AT_BPTT, window_range=1)
    setup = Setup(data, None, "convnet-d2-w32", model, method, SETTINGS)
    variables = Variables(torch.randn(6, 1, 8, 8), torch.eye(3).repeat_interleave(2, 0), torch.tensor(0.01))
    theta = setup.fresh(0, 0)
    assert engine_of(model).name(theta, variables.images) == "native"

    def refuse(*given: object) -> None:
        raise AssertionError("torch was asked for the network")

    monkeypatch.setattr(FlatModel, "__call__", refuse)
    found, _ = method.step.advance(setup, variables, method.step.begin(setup, variables, 0), 0, 0)
    assert bool(found.images.isfinite().all())


def test_the_running_mean_of_norms_bounds_the_next_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the present norm in before it bounds it; images and labels are one vector, or the images alone."""
    for together in (False, True):
        method = numbered(RAT_BPTT, clip=0.5, clip_together=together)
        method = method.replace(labels=WeightLabels(), learn=("images", "targets"))
        free = numbered(method, clip=0.0)
        setup = smooth_setup(method, monkeypatch)
        variables = variables_of(setup.dataset)
        state = bare = method.step.begin(setup, variables, SEED)
        mean = None
        for iteration in range(3):
            raw, bare = free.step.advance(setup, variables, bare, iteration, SEED)
            found, state = method.step.advance(setup, variables, state, iteration, SEED)
            norm = math.hypot(float(raw.images.norm()), float(raw.targets.norm()) * together)
            mean = norm if mean is None else 0.9 * mean + 0.1 * norm
            assert float(state.tensors["norm"]) == pytest.approx(mean, rel=1e-9)
            share = min(1.0, 0.5 * mean / norm)
            assert torch.allclose(found.images, share * raw.images, rtol=1e-9, atol=0)
            assert torch.allclose(found.targets, (share if together else 1.0) * raw.targets, rtol=1e-9, atol=0)


def windows(method: Method, count: int) -> list[int]:
    """The number of steps of each of the first `count` outer steps of a set of 24 × 3 real images, 20 at a time."""
    data = blobs()
    setup = Setup(data, None, "", FlatModel(build_model("convnet-d1-w4", data.shape, 3)), method, SETTINGS)
    empty = StepState({}, {"taken": 0})
    inner: Any = None
    start: Any = None
    variables: Any = None
    found = [step_of(method).truncation(setup, inner, start, variables, empty, number, 0)[0] for number in range(count)]
    assert all(each.window == step_of(method).window for each in found)
    return [each.steps for each in found]


def test_the_window_moves_once_for_each_pass_over_the_real_images() -> None:
    by_epoch = windows(numbered(RAT_BPTT, unroll=40), 30)
    assert all(len(set(by_epoch[first : first + 3])) == 1 for first in range(0, 30, 3))
    assert len(set(by_epoch)) > 5
    assert 3 <= min(by_epoch) <= max(by_epoch) <= 40
    by_step = windows(numbered(RAT_BPTT, unroll=40, place="step"), 30)
    assert len(set(by_step)) > 12
    assert windows(numbered(RAT_BPTT, unroll=40, place="last"), 4) == [40] * 4
    assert set(windows(numbered(RAT_BPTT, unroll=3, place="step"), 5)) == {3}


def test_a_training_step_sees_some_images_of_some_classes() -> None:
    data = blobs(classes=5)
    method = numbered(RAT_BPTT, per_class=2, classes_at_once=3)
    setup = Setup(data, None, "", FlatModel(build_model("convnet-d1-w4", data.shape, 5)), method, SETTINGS)
    plan = step_of(method).plan(setup, 20, 0, 0)
    assert isinstance(plan.indices, Tensor)
    assert plan.indices.shape == (7, 6)
    for row in plan.indices:
        labels, counts = (row // 4).unique(return_counts=True)
        assert counts.tolist() == [2, 2, 2]
        assert len(labels) == 3
        assert len(row.unique()) == 6
    assert len({tuple(row.tolist()) for row in plan.indices}) == 7
    more = step_of(numbered(RAT_BPTT, per_class=9, classes_at_once=9)).plan(setup, 20, 0, 0)
    assert torch.equal(torch.as_tensor(more.indices), torch.arange(20).expand(7, 20))


def test_where_the_adaptive_window_ends_and_how_long_it_is() -> None:
    """The formulas with plain numbers, one after another."""
    step = AdaptiveTruncation(unroll=6, window=3, window_range=2, temperature=0.7, window_temperature=0.4)
    first = [3.0, 1.0, 4.0, 1.5, 9.0, 2.0]
    second = [value / 2 for value in first]
    third = [0.7 * value for value in first]
    prior = [0.3, 0.1, 0.2, 0.1, 0.2, 0.1]
    bounds: Tensor | None = None
    low, high = math.inf, -math.inf
    for norms, wanted_weight in ((first, 1.0), (second, -1.0), (third, -0.2)):
        mean = sum(norms) / 6
        low, high = min(low, mean), max(high, mean)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in norms) / 6)
        scores = [wanted_weight * (value - mean) / deviation / 0.7 for value in norms]
        total = sum(p * math.exp(score) for p, score in zip(prior, scores, strict=True))
        wanted = [p * math.exp(score) / total for p, score in zip(prior, scores, strict=True)]
        given = torch.tensor(norms, dtype=torch.float64)
        found, bounds = step.places(given, torch.tensor(prior, dtype=torch.float64), bounds)
        assert found.tolist() == pytest.approx(wanted, rel=1e-12)
        assert bounds.tolist() == pytest.approx([low, high], rel=1e-12)
    changes = [0.0, 2.0, 3.0, 2.5, 7.5, 7.0]
    mean = sum(changes) / 6
    deviation = math.sqrt(sum((value - mean) ** 2 for value in changes) / 6)
    for number, change in enumerate(changes):
        share = 1 / (1 + math.exp(-(change - mean) / deviation / 0.4))
        length = min(max(round(3 - 2 + 4 * share), 1), 5, 6)
        found = step.at(number, torch.tensor(first, dtype=torch.float64))
        assert (found.steps, found.window) == (number + 1, min(length, number + 1))
    assert standardised(torch.full((4,), 2.0, dtype=torch.float64)).tolist() == [0.0] * 4


def test_the_adaptive_step_probes_its_own_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The norms are those of all T gradients; the distribution is drawn from and moves the reference."""
    method = numbered(AT_BPTT, window_range=1)
    setup = smooth_setup(method, monkeypatch)
    variables, step = variables_of(setup.dataset), step_of(method)
    begun = step.begin(setup, variables, SEED)
    _, state = step.advance(setup, variables, begun, 0, SEED)
    theta, plan = setup.fresh(SEED, 0), step.plan(setup, 6, 0, SEED)
    norms, moments = [], (torch.zeros_like(theta), torch.zeros_like(theta))
    for number in range(7):
        leaf = theta.requires_grad_()
        said = log_softmax(setup.model(leaf, plan.augment(number, variables.images)), dim=1)
        (slope,) = torch.autograd.grad(-(variables.targets * said).sum() / 6, leaf)
        norms.append(float(slope.norm()))
        moved, moments = Adam().step(number, leaf.detach(), moments, slope, torch.tensor(1e-3))
        theta = moved
    given = torch.tensor(norms, dtype=torch.float64)
    weights = standardised(given).softmax(dim=0)
    assert torch.allclose(state.tensors["reference"], 0.95 / 7 + 0.05 * weights, rtol=1e-9)
    assert state.tensors["bounds"].tolist() == pytest.approx([sum(norms) / 7] * 2)


@pytest.mark.parametrize("method", [RAT_BPTT, AT_BPTT], ids=lambda method: method.name)
def test_what_the_step_keeps_comes_back_to_the_bit(method: Method, tmp_path: Path) -> None:
    method, data = numbered(method), blobs()
    rates = method.step.usual_settings(2)

    def state(iterations: tuple[int, ...], out: Path) -> dict[str, Tensor]:
        for count in iterations:
            settings = DistillSettings(**{**rates, "iterations": count, "augmentation": ""})
            distill(data, None, method=method, model="convnet-d1-w4", ipc=2, settings=settings, out=out)
        return load_tensors(out / "state.safetensors")[0]

    whole, resumed = state((5,), tmp_path / "whole"), state((2, 3, 5), tmp_path / "resumed")
    assert {"step.norm"} <= whole.keys()
    assert ("step.reference" in whole) == (method.name == "at-bptt")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("canvas", [1, 2])
def test_images_stay_on_the_sphere_and_labels_stay_weights(canvas: int) -> None:
    method, data = numbered(AT_BPTT), blobs()
    settings = DistillSettings(
        **{**method.step.usual_settings(2), "iterations": 1, "augmentation": "", "lr_targets": 0.3, "canvas": canvas}
    )
    made = distill(data, None, method=method, model="convnet-d1-w4", ipc=2, settings=settings)
    assert made.images.flatten(1).norm(dim=1).tolist() == pytest.approx([float(canvas)] * 6, rel=1e-5)
    assert made.labels == "weights"
    assert float(made.targets.min()) == 0.0
    assert not torch.allclose(made.targets.sum(dim=1), torch.ones(6), atol=0.05)
    assert not made.certain
    assert torch.equal(TensorExamples.of(made, None, torch.device("cpu")).targets, made.targets)


@pytest.mark.parametrize("taken", [0, 3])
def test_a_probe_that_diverges_says_nothing(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The window is then drawn from the reference, which stays as it is, with the bounds of the norms."""
    method = numbered(AT_BPTT, window_range=1)
    setup = smooth_setup(method, monkeypatch)
    variables, step = variables_of(setup.dataset), step_of(method)
    begun = step.begin(setup, variables, SEED)
    begun = StepState({**begun.tensors, "bounds": torch.tensor([1.0, 2.0], dtype=torch.float64)}, {"taken": taken})
    inner = SimpleNamespace(steps=lambda *_: [SimpleNamespace(gradient=torch.tensor([math.inf])) for _ in range(7)])
    found, state = step.truncation(setup, inner, torch.zeros(1), variables, begun, 0, SEED)  # type: ignore[arg-type]
    assert 1 <= found.window <= found.steps <= 7
    for name in ("reference", "bounds"):
        torch.testing.assert_close(state.tensors[name], begun.tensors[name])


def test_first_images_have_unit_norm(dataset: Dataset, model: FlatModel) -> None:
    initial = UnitNormInit()(dataset, None, model, 3, 0)
    assert initial.images.flatten(1).norm(dim=1).tolist() == pytest.approx([1.0] * 9, rel=1e-5)
    assert initial.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_images_are_brought_back_to_unit_norm_as_a_network_sees_them(dataset: Dataset, model: FlatModel) -> None:
    for texture in (TextureSpec(), TextureSpec(factor=2), TextureSpec(canvas=2)):
        settings = SETTINGS.replace(factor=texture.factor, canvas=texture.canvas)
        setup, (_, height, width) = Setup(dataset, None, TINY, model, AT_BPTT, settings), dataset.shape
        cells = UnitNormInit()(dataset, None, model, 2 * texture.cells, 0)
        stored = UnitNormInit().laid_out(cells.images, texture, (height, width))
        before = texture.decoded(stored).flatten(1).norm(dim=1)
        moved = stored + 0.01 * torch.randn(stored.shape, generator=rng(5, "moved"))
        AT_BPTT.step.project(setup, {"images": moved, "targets": torch.eye(3)})
        found = texture.decoded(moved).flatten(1).norm(dim=1)
        torch.testing.assert_close(found, torch.full_like(found, float(texture.canvas)), rtol=1e-5, atol=0)
        torch.testing.assert_close(found, before, rtol=1e-5, atol=0)


def test_settings_that_contradict_one_another_are_refused() -> None:
    with pytest.raises(InputError, match="A window of 9 steps does not fit into 7 steps of training; choose"):
        numbered(RAT_BPTT, window=9).step.check(numbered(RAT_BPTT, window=9), SETTINGS, None, "")
    learning = RAT_BPTT.replace(learn=("images", "lr"))
    with pytest.raises(InputError, match=r"learned, but Adam's is fixed at 0\.001; add --method\.step\.inner-lr none"):
        learning.step.check(learning, SETTINGS, None, "")


def test_the_low_rank_curvature_is_that_of_a_whole_second_derivative() -> None:
    """The randomised decomposition beside the same products by a matrix, and beside all singular values."""
    problem_setup = FlatModel(SmoothNet().double())
    inner = InnerLoop(problem_setup, planned(torch.arange(6).expand(2, 6), "", (2, 6, 6), rng(0, "plan")))
    theta, variables = problem_setup.flatten(), variables_of(blobs(shape=(2, 6, 6)))
    product = curvature_of(inner, theta, variables, 1)
    whole = torch.autograd.functional.hessian(lambda at: inner.loss(at, variables.images, variables.targets), theta)
    assert isinstance(whole, Tensor)
    found = LowRank.fitted(product, 9, theta, rng(3, "curvature"))
    basis = torch.randn(len(theta), 13, generator=rng(3, "curvature"), dtype=torch.float64)
    for _ in range(3):
        basis = torch.linalg.qr(whole @ basis).Q
    left, values, right = torch.linalg.svd(basis.T @ whole @ basis)
    wanted = basis @ left[:, :9] @ torch.diag(values[:9]) @ right[:9] @ basis.T
    made = found.left @ torch.diag(found.values) @ found.right.T
    assert float((made - wanted).norm() / wanted.norm()) < 1e-9
    exact = torch.linalg.svdvals(whole)
    assert bool((found.values <= exact[:9] + 1e-12).all())
    assert torch.allclose(found.values[:3], exact[:3], rtol=0.2)
    vector = torch.randn(len(theta), generator=rng(0, "vector"), dtype=torch.float64)
    assert torch.allclose(found.times(vector), wanted @ vector / found.values[0], rtol=1e-8)
    assert torch.allclose(found.transposed_times(vector), wanted.T @ vector / found.values[0], rtol=1e-8)


def test_a_window_in_few_directions_is_double_backward_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole graph of Adam on the projected gradients; the prefix before them has the gradients themselves."""
    method = numbered(AT_BPTT, clip=0.0, window_range=0, unit_norm=False, curvature_rank=5)
    setup = smooth_setup(method, monkeypatch)
    variables = variables_of(setup.dataset)
    step = method.step
    found, state = step.advance(setup, variables, step.begin(setup, variables, SEED), 1, SEED)
    bare = numbered(method, curvature_rank=0).step
    plan = planned(torch.arange(6).expand(7, 6), "flip_rotate", setup.dataset.shape, rng(SEED, "plan", 1))
    inner = InnerLoop(setup.model, plan, labels="weights", optimiser=Adam())
    start, fixed = setup.fresh(SEED, 1), variables.replace(lr=torch.tensor(1e-3, dtype=torch.float64))
    begun = bare.begin(setup, variables, SEED)
    assert isinstance(bare, AdaptiveTruncation)
    truncation, _ = bare.truncation(setup, inner, start, fixed, begun, 1, SEED)
    first = truncation.steps - truncation.window
    middle = state.tensors["left"] @ torch.diag(state.tensors["values"] / state.tensors["values"][0])
    projection = middle @ state.tensors["right"].T
    images, targets = (variables[name].clone().requires_grad_() for name in ("images", "targets"))
    theta, mean, square = start.detach(), torch.zeros_like(start), torch.zeros_like(start)
    for number in range(truncation.steps):
        inside = number >= first
        if not inside or number == first:
            theta, mean, square = (part.detach() for part in (theta, mean, square))
            theta.requires_grad_()
        seen, wanted = (part if inside else part.detach() for part in (images, targets))
        said = log_softmax(setup.model(theta, plan.augment(number, seen)), dim=1)
        (slope,) = torch.autograd.grad(-(wanted * said).sum(dim=1).mean(), theta, create_graph=inside)
        if inside:
            image = projection @ slope
            slope = slope.norm() * image / image.norm()
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        root = (square / (1 - 0.999 ** (number + 1))) ** 0.5
        theta = theta - 1e-3 * (mean / (1 - 0.9 ** (number + 1))) / (root + 1e-8)
    wanted = torch.autograd.grad(ByHand(setup, 20, 1)([theta]), (images, targets))
    assert float((found.images - wanted[0]).norm() / wanted[0].norm()) < 1e-9
    assert float((found.targets - wanted[1]).norm() / wanted[1].norm()) < 1e-9
    plain, _ = bare.advance(setup, variables, begun, 1, SEED)
    assert float((found.images - plain.images).norm() / plain.images.norm()) > 0.01


def test_the_curvature_is_fitted_again_where_gradients_change_and_after_some_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = numbered(AT_BPTT, window_range=0, curvature_rank=2, curvature_every=3, curvature_change=1e9)
    setup = smooth_setup(method, monkeypatch)
    variables = variables_of(setup.dataset)
    for change, wanted in ((1e9, [True, False, False, True, False]), (0.0, [True] * 5)):
        step = method.step.replace(curvature_change=change)
        state, fitted = step.begin(setup, variables, SEED), []
        for iteration in range(5):
            before = state.tensors["left"].clone()
            _, state = step.advance(setup, variables, state, iteration, SEED)
            fitted.append(not torch.equal(before, state.tensors["left"]))
        assert fitted == wanted
