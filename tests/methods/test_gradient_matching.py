"""DC, DSA and IDC against their distances written out with double backward; the life of a network; runs that go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from problems import SmoothNet, blobs
from torch import Tensor
from torch.nn.functional import cross_entropy

from astdistill.autodiff.dispatch import engine_name, using
from astdistill.data.augmentation import apply, cut_and_mixed, draw
from astdistill.data.dataset import Dataset
from astdistill.distillation.loop import distill
from astdistill.distillation.run import Distillation
from astdistill.distillation.settings import DistillSettings
from astdistill.methods.gradient_matching import (
    DC,
    DSA,
    IDC,
    GradientMatching,
    RealTrainedGradientMatching,
    SiameseGradientMatching,
)
from astdistill.methods.method import Method
from astdistill.methods.outer_step import OuterStep, Setup, StepState
from astdistill.methods.unroll import InnerLoop, Variables, draw_plan
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime.files import load_tensors
from astdistill.runtime.seeds import rng, seeded

SHAPE, EACH, CLASSES = (2, 6, 6), 2, 3
COSINE = GradientMatching(batch_real=5, matchings=2, passes=3, net_lr=0.1, net_batch=4)
L1 = RealTrainedGradientMatching(batch_real=5, matchings=2, net_lr=0.1, net_batch=8, net_images=20)
SQUARES = L1.replace(differences="squared")
STEPS = [COSINE, SiameseGradientMatching(batch_real=5), L1]
IDS = ["dc", "dsa", "idc"]


class Smooth(Setup):
    """A student whose every derivative exists, in float64."""

    def fresh(self, seed: int, iteration: int) -> Tensor:
        with seeded(seed, "smooth", iteration):
            return self.model.flatten(SmoothNet().double())


def smooth(augmentation: str) -> Setup:
    settings = DistillSettings(augmentation=augmentation)
    return Smooth(blobs(shape=SHAPE, count=8), None, "smooth", FlatModel(SmoothNet().double()), DC, settings)


@pytest.fixture(params=["", "color", "crop", "cutout", "flip", "scale", "rotate"])
def setup(request: pytest.FixtureRequest) -> Setup:
    return smooth(request.param)


@pytest.fixture
def variables() -> Variables:
    images = torch.randn(CLASSES * EACH, *SHAPE, generator=rng(3, "images"), dtype=torch.float64)
    targets = torch.eye(CLASSES, dtype=torch.float64).repeat_interleave(EACH, 0)
    return Variables(images, targets, torch.tensor(0.01, dtype=torch.float64))


def network(setup: Setup, theta: Tensor) -> SmoothNet:
    module = SmoothNet().double()
    setup.model.load(module, theta)
    return module


def slopes(module: SmoothNet, images: Tensor, label: int, graph: bool) -> list[Tensor]:
    """Of the mean cross-entropy, image by image."""
    losses = [cross_entropy(module(image[None]), torch.tensor([label])) for image in images]
    return list(torch.autograd.grad(sum(losses) / len(losses), list(module.parameters()), create_graph=graph))  # type: ignore[arg-type]


def cosines(real: list[Tensor], own: list[Tensor]) -> Tensor:
    """Row by row."""
    total = torch.zeros((), dtype=torch.float64)
    for wanted, found in zip(real, own, strict=True):
        if wanted.dim() > 1:
            for r, s in zip(wanted, found, strict=True):
                total = total + 1 - (r * s).sum() / (r.pow(2).sum().sqrt() * s.pow(2).sum().sqrt() + 1e-6)
    return total


def absolutes(real: list[Tensor], own: list[Tensor]) -> Tensor:
    """Of the one convolution."""
    pairs = zip(real, own, strict=True)
    (total,) = [(wanted - found).abs().sum() for wanted, found in pairs if wanted.dim() == 4]
    return total


def squares(real: list[Tensor], own: list[Tensor]) -> Tensor:
    """Of the one convolution."""
    (total,) = [(r - s).pow(2).sum() for r, s in zip(real, own, strict=True) if r.dim() == 4]
    return total


def written_out(step: GradientMatching, setup: Setup, theta: Tensor, images: Tensor, iteration: int) -> Tensor:
    """The loss at θ in outer step `iteration` of seed 7."""
    train, module, total = setup.dataset.train, network(setup, theta), torch.zeros((), dtype=torch.float64)
    distance = cosines
    if isinstance(step, RealTrainedGradientMatching):
        distance = {"absolute": absolutes, "squared": squares}[step.differences]
    for label in range(CLASSES):
        members = [row for row in range(len(train)) if int(train.labels[row]) == label]
        chosen = torch.randperm(len(members), generator=rng(7, "real", iteration, label))[:5]
        numbers = draw(setup.settings.augmentation, 1, SHAPE, rng(7, "augmentation", iteration, label))
        real = [train.batch(torch.tensor([members[row]])).double() for row in chosen.tolist()]
        own = images[EACH * label : EACH * label + EACH].split(1)
        seen = [torch.cat([apply(image, numbers) for image in group]) for group in (real, own)]
        wanted = [each.detach() for each in slopes(module, seen[0], label, False)]
        total = total + distance(wanted, slopes(module, seen[1], label, True))
    return total


def begun(step: OuterStep, setup: Setup, variables: Variables) -> StepState:
    return step.begin(setup, variables, 7)


@pytest.mark.parametrize("step", [*STEPS, SQUARES], ids=[*IDS, "squares"])
def test_the_gradient_is_that_of_the_written_out_distance(
    step: GradientMatching, setup: Setup, variables: Variables
) -> None:
    found, _ = step.advance(setup, variables, begun(step, setup, variables), 4, 7)
    images = variables.images.clone().requires_grad_()
    wanted = written_out(step, setup, setup.fresh(7, 4), images, 4)
    (slope,) = torch.autograd.grad(wanted, images)
    torch.testing.assert_close(found.loss, wanted.detach(), rtol=1e-10, atol=0)
    assert float((found.images - slope).norm() / slope.norm()) < 1e-9
    assert set(found) == {"images"}


@pytest.mark.parametrize("step", STEPS, ids=IDS)
@pytest.mark.parametrize("pixel", [(0, 0, 2, 3), (3, 1, 3, 3), (5, 0, 1, 4)])
def test_the_gradient_is_a_finite_difference(
    step: GradientMatching, variables: Variables, pixel: tuple[int, ...]
) -> None:
    setup, width, moved = smooth("scale"), 1e-6, []
    for sign in (1, -1):
        images = variables.images.clone()
        images[pixel] += sign * width
        at = variables.replace(images=images)
        moved.append(float(step.advance(setup, at, begun(step, setup, at), 4, 7)[0].loss))
    slope = float(step.advance(setup, variables, begun(step, setup, variables), 4, 7)[0].images[pixel])
    assert slope == pytest.approx((moved[0] - moved[1]) / (2 * width), rel=1e-6)
    assert abs(slope) > 1e-6


def descended(setup: Setup, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """∇_θ of the mean cross-entropy, by torch."""
    theta = theta.clone().requires_grad_()
    return torch.autograd.grad(cross_entropy(setup.model(theta, images), targets), theta)[0]


def trained_on_x(setup: Setup, theta: Tensor, variables: Variables) -> Tensor:
    """Three passes in batches of four, by plain SGD, before outer step 5 of seed 7."""
    plan = draw_plan(6, 6, 4, setup.settings.augmentation, SHAPE, rng(7, "plan", 5))
    for number in range(6):
        images, targets = InnerLoop(setup.model, plan).batch(number, variables)
        theta = theta - 0.1 * descended(setup, theta, images, targets)
    return theta


def trained_on_real(setup: Setup, theta: Tensor, variables: Variables) -> Tensor:
    """Twenty images in batches of eight, by SGD with momentum and decay, under cutmix, before outer step 5 of seed
    7."""
    train, generator, velocity = setup.dataset.train, rng(7, "training", 5), torch.zeros_like(theta)
    for rows in torch.randperm(len(train), generator=generator)[:20].split(8):
        numbers = draw(setup.settings.augmentation.replace("cutout", ""), len(rows), SHAPE, generator)
        targets = torch.eye(3, dtype=torch.float64)[train.labels[rows]]
        seen, targets = cut_and_mixed(apply(train.batch(rows).double(), numbers), targets, 0.5, generator)
        velocity = 0.9 * velocity + descended(setup, theta, seen, targets) + 5e-4 * theta
        theta = theta - 0.1 * velocity
    return theta


@pytest.mark.parametrize(("step", "trained"), [(COSINE, trained_on_x), (L1, trained_on_real)], ids=["dc", "idc"])
def test_a_network_is_matched_trained_matched_and_replaced(
    step: GradientMatching, trained: Any, setup: Setup, variables: Variables
) -> None:
    """The training is on the images as they are by then."""
    _, state = step.advance(setup, variables, begun(step, setup, variables), 4, 7)
    assert torch.equal(state.tensors["theta"], setup.fresh(7, 4))
    moved = variables.replace(images=0.7 * variables.images)
    found, state = step.advance(setup, moved, state, 5, 7)
    theta = trained(setup, setup.fresh(7, 4), moved)
    assert float((state.tensors["theta"] - theta).norm() / (theta - setup.fresh(7, 4)).norm()) < 1e-9
    images = moved.images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(written_out(step, setup, theta, images, 5), images)
    assert float((found.images - slope).norm() / slope.norm()) < 1e-9
    _, state = step.advance(setup, moved, state, 6, 7)
    assert torch.equal(state.tensors["theta"], setup.fresh(7, 6)), "two outer steps on each network"
    assert all(not each.any() for name, each in state.tensors.items() if name != "theta")


def test_one_image_per_class_takes_a_new_network_for_each_step(setup: Setup, variables: Variables) -> None:
    alone, state = DC.step.replace(batch_real=5), StepState()
    one = variables.replace(images=variables.images[::2], targets=variables.targets[::2])
    state = alone.begin(setup, one, 7)
    for iteration in range(3):
        _, state = alone.advance(setup, one, state, iteration, 7)
        assert torch.equal(state.tensors["theta"], setup.fresh(7, iteration))


def test_the_published_loops_follow_from_the_images_per_class() -> None:
    step = GradientMatching()
    loops = {ipc: (step.life(ipc), step._passes(ipc)) for ipc in (10, 20, 50)}
    assert loops == {10: (10, 50), 20: (20, 25), 50: (50, 10)}
    assert step.life(1) == 1
    assert [step.usual_settings(ipc)["iterations"] for ipc in (1, 10)] == [1000, 10_000]
    assert (step.usual_settings(1)["augmentation"], "augmentation" in DSA.step.usual_settings(1)) == ("", False)


@pytest.mark.parametrize("step", STEPS, ids=IDS)
def test_rows_without_a_gradient_have_no_direction(step: GradientMatching) -> None:
    """As torch differentiates the same: units that no image excites."""
    model = FlatModel(SmoothNet().double())
    real, own = (torch.randn(model.size, generator=rng(1, name), dtype=torch.float64) for name in ("real", "own"))
    for part in model.unflatten(own).values():
        part[0] = 0.0
    found, slope = step.distance(model, real, own)
    distance = absolutes if isinstance(step, RealTrainedGradientMatching) else None
    leaf = own.clone().requires_grad_()
    parts = [list(model.unflatten(each).values()) for each in (real, leaf)]
    if distance is None:
        rows = [(r.flatten(1), s.flatten(1)) for r, s in zip(*parts, strict=True) if r.dim() > 1]
        wanted = sum((1 - (r * s).sum(1) / (r.norm(dim=1) * s.norm(dim=1) + 1e-6)).sum() for r, s in rows)
    else:
        wanted = distance(*parts)
    assert isinstance(wanted, Tensor)
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(slope, torch.autograd.grad(wanted, leaf)[0], rtol=1e-9, atol=1e-12)
    assert bool(slope.isfinite().all())


def test_a_network_without_convolutions_is_matched_in_its_linear_layers(dataset: Dataset) -> None:
    model = FlatModel(build_model("mlp", dataset.shape, CLASSES))
    own = torch.ones(model.size)
    loss, along = L1.distance(model, torch.zeros_like(own), own)
    weights = sum(part.numel() for part in model.unflatten(own).values() if part.dim() == 2)
    assert int(loss) == int(along.sum()) == weights


@pytest.mark.parametrize("method", [DSA, IDC], ids=IDS[1:])
def test_native_kernels_give_the_same(method: Method, dataset: Dataset, model: FlatModel) -> None:
    setup = Setup(dataset, None, "convnet-d1-w4", model, method, DistillSettings(augmentation="flip"))
    images = torch.randn(CLASSES * EACH, *dataset.shape, generator=rng(3, "images"))
    variables = Variables(images, torch.eye(3).repeat_interleave(EACH, 0), torch.tensor(0.01))
    step = method.step.replace(batch_real=5)
    found, _ = step.advance(setup, variables, begun(step, setup, variables), 4, 7)
    with using("eager"):
        wanted, _ = step.advance(setup, variables, begun(step, setup, variables), 4, 7)
        assert engine_name(model, setup.fresh(7, 4), images) == "eager"
    assert float((found.images - wanted.images).norm() / wanted.images.norm()) < 1e-3
    assert float(found.loss) == pytest.approx(float(wanted.loss), rel=1e-4)


@pytest.mark.parametrize("method", [DC, DSA, IDC], ids=IDS)
def test_a_run_goes_on_within_the_life_of_a_network(method: Method, dataset: Dataset, tmp_path: Path) -> None:
    method = method.replace(step=method.step.replace(matchings=3))

    def images(iterations: int, out: Path | None) -> Tensor:
        settings = DistillSettings(iterations=iterations, lr_img=0.1, augmentation="flip_scale")
        return distill(dataset, method=method, model="convnet-d1-w4", ipc=2, settings=settings, out=out).images

    whole, run = images(5, None), tmp_path / "run"
    images(2, run)
    tensors, header = load_tensors(run / "state.safetensors")
    assert header["step"] == {"age": 2}
    assert bool(tensors["step.theta"].any())
    assert torch.equal(images(5, run), whole)
    assert not torch.equal(images(6, run), whole)


def test_sub_images_of_slots_are_matched_and_pixels_stay_in_their_range(dataset: Dataset, model: FlatModel) -> None:
    settings = DistillSettings.model_validate({**IDC.step.usual_settings(EACH), "factor": 2, "lr_img": 100.0})
    run = Distillation(dataset, None, IDC, EACH, settings, None, 0, model, "convnet-d1-w4")
    state, texture = run.start(), settings.texture
    assert state.images.shape == (CLASSES * EACH, *dataset.shape)
    seen_by = Variables(texture.decoded(state.images), texture.for_each(state.targets), state.lr)
    found, _ = IDC.step.advance(run.step_setup, seen_by, state.step.clone(), 0, 0)
    images = state.images.clone().requires_grad_()
    (texture.decoded(images) * found.images).sum().backward()
    torch.testing.assert_close(run.gradient(state).images, images.grad)
    run.advance(state)
    pixels = dataset.preprocessing.invert(state.images)
    assert (float(pixels.min()), float(pixels.max())) == pytest.approx((0, 1), abs=1e-6)


def test_idcs_rate_is_that_of_pixels_for_standardised_images_and_joint_steps() -> None:
    usual = IDC.step.usual_settings(10)
    assert usual["lr_img"] == pytest.approx(1e-4 * 16 * 2)
    assert (usual["outer_momentum"], usual["iterations"]) == (0.0, 50_000)
    squared = IDC.step.replace(differences="squared").usual_settings(10)
    assert squared["lr_img"] == pytest.approx(5e-3 * 16 * 2)
    assert squared["iterations"] == 200_000
