"""TGDD and NCFM against their losses written out; the literal steps of one class after another; pixels in their range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import blobs
from torch import Tensor

from astdistill.data.augmentation import apply, draw
from astdistill.data.dataset import Dataset
from astdistill.distillation.run import Distillation
from astdistill.distillation.settings import DistillSettings
from astdistill.experts.store import TrajectoryStore
from astdistill.methods import class_matching
from astdistill.methods.class_matching import ExpertFeatureMatching, Pairs
from astdistill.methods.method import Method
from astdistill.methods.ncfm import NCFM, CharacteristicMatching, discrepancy
from astdistill.methods.outer_step import Pair, Setup
from astdistill.methods.tgdd import TGDD, TrajectoryGuidedMatching
from astdistill.methods.unroll import Variables
from astdistill.models.flat import FlatModel
from astdistill.runtime.seeds import rng

CLASSES, EACH = 3, 4
GUIDED = TrajectoryGuidedMatching(batch_real=5, ahead=2, alpha=0.7)
CHARACTERISTIC = CharacteristicMatching(batch_real=5, frequencies=6, scale=3.0, calibration=0.4)


@pytest.fixture(params=["", "color", "crop", "flip"])
def setup(request: pytest.FixtureRequest, dataset: Dataset, experts: TrajectoryStore, model: FlatModel) -> Setup:
    return Setup(dataset, experts, "", model, TGDD, DistillSettings(augmentation=request.param))


@pytest.fixture
def variables(dataset: Dataset) -> Variables:
    images = torch.randn(CLASSES * EACH, *dataset.shape, generator=rng(3, "images"), dtype=torch.float64)
    return Variables(images, torch.eye(3).repeat_interleave(EACH, 0), torch.tensor(0.01))


def network(setup: Setup, expert: int, epoch: int) -> Tensor:
    assert setup.experts is not None
    return setup.experts.rows(expert, epoch, epoch + 1)[0].double()


def seen(setup: Setup, images: Tensor, label: int) -> tuple[list[Tensor], list[Tensor]]:
    """Real and synthetic images of a class at iteration 4 of seed 7, augmented one by one."""
    train = setup.dataset.train
    members = [number for number in range(len(train)) if int(train.labels[number]) == label]
    chosen = torch.randperm(len(members), generator=rng(7, "real", 4, label))[:5]
    numbers = draw(setup.settings.augmentation, 1, setup.dataset.shape, rng(7, "augmentation", 4, label))
    real = [train.batch(torch.tensor([members[place]]))[0].double() for place in chosen.tolist()]
    own = list(images[EACH * label : EACH * label + EACH])
    return [apply(each[None], numbers) for each in real], [apply(each[None], numbers) for each in own]


def of_tgdd(setup: Setup, images: Tensor) -> Tensor:
    """Image by image."""
    assert setup.experts is not None
    expert, first, second = GUIDED.epochs(setup.experts, 4, 7)
    early, late, total = network(setup, expert, first), network(setup, expert, second), torch.zeros(()).double()
    for label in range(CLASSES):
        real, own = seen(setup, images, label)
        means = [sum(setup.model.features(early, each)[0] for each in part) / len(part) for part in (real, own)]
        total = total + sum((a - b) ** 2 for a, b in zip(means[0], means[1], strict=True))  # type: ignore[arg-type]
        for image in own:
            logits = setup.model(late, image)[0]
            total = total + 0.7 * (logits.exp().sum().log() - logits[label]) / EACH
    return total


def of_ncfm(setup: Setup, images: Tensor) -> Tensor:
    """Image by image and frequency by frequency, with complex numbers."""
    assert setup.experts is not None
    generator = rng(7, "rows", 4)
    expert = setup.experts.experts()[int(torch.randint(len(setup.experts.experts()), (), generator=generator))]
    share = float(torch.rand((), generator=generator))
    last = network(setup, expert, setup.experts.epochs)
    theta, total = share * network(setup, expert, 0) + (1 - share) * last, torch.zeros(()).double()
    length = setup.model.features(theta, images[:1]).shape[1]
    frequencies = torch.randn(6, length, generator=rng(7, "frequencies", 4)).double()
    for label in range(CLASSES):
        real, own = seen(setup, images, label)
        for frequency in frequencies:
            values = []
            for part in (real, own):
                waves = []
                for image in part:
                    features = setup.model.features(theta, image)[0]
                    angle = frequency @ (features / features.norm())
                    waves.append(torch.complex(angle.cos(), angle.sin()))
                values.append(torch.stack(waves).mean())
            a, b = values
            square = (a.abs() - b.abs()) ** 2 / 2 + a.abs() * b.abs() - (a * b.conj()).real
            total = total + 3.0 * square.sqrt() / len(frequencies)
        for image in own:
            logits = setup.model(last, image)[0]
            total = total + 0.4 * (logits.exp().sum().log() - logits[label]) / EACH
    return total


CASES: list[tuple[ExpertFeatureMatching, Any]] = [(GUIDED, of_tgdd), (CHARACTERISTIC, of_ncfm)]
IDS = ["tgdd", "ncfm"]


@pytest.mark.parametrize(("step", "loss"), CASES, ids=IDS)
def test_the_gradient_is_that_of_the_written_out_loss(
    step: ExpertFeatureMatching, loss: Any, setup: Setup, variables: Variables
) -> None:
    found, images = step(setup, variables, 4, 7), variables.images.clone().requires_grad_()
    wanted = loss(setup, images)
    (slope,) = torch.autograd.grad(wanted, images)
    torch.testing.assert_close(found.loss, wanted.detach(), rtol=1e-8, atol=0)
    torch.testing.assert_close(found.images, slope, rtol=1e-7, atol=1e-10)
    assert set(found) == {"images"}


@pytest.mark.parametrize("apart", [1.0, 0.1, 0.01])
def test_the_discrepancy_of_near_images_is_as_exact_as_that_of_others(apart: float) -> None:
    real = torch.randn(40, 64, generator=rng(1, "real"), dtype=torch.float64)
    frequencies = torch.randn(256, 64, generator=rng(3, "frequencies"), dtype=torch.float64)
    slopes = []
    for dtype in (torch.float32, torch.float64):
        own = (real + apart * torch.randn(40, 64, generator=rng(2, "own"), dtype=torch.float64)).to(dtype)
        own.requires_grad_()
        slopes += torch.autograd.grad(discrepancy(real.to(dtype), own, frequencies.to(dtype)), own)
    assert float((slopes[0] - slopes[1]).norm() / slopes[1].norm()) < 2e-3


@pytest.mark.parametrize("step", [GUIDED, CHARACTERISTIC], ids=IDS)
def test_classes_taken_in_groups_give_the_same(
    step: ExpertFeatureMatching, setup: Setup, variables: Variables, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, counted = step(setup, variables, 4, 7), step.work(setup.settings, CLASSES * EACH, CLASSES)
    monkeypatch.setattr(class_matching, "TOGETHER", 10)  # two classes of five real images, then one
    parts, fewer = step(setup, variables, 4, 7), step.work(setup.settings, CLASSES * EACH, CLASSES)
    torch.testing.assert_close(parts.images, whole.images, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(parts.loss, whole.loss, rtol=1e-12, atol=0)
    assert (counted.groups, fewer.groups) == (1, 2)
    assert fewer.at_once < counted.at_once


@pytest.mark.parametrize("step", [GUIDED, CHARACTERISTIC], ids=IDS)
def test_the_gradient_is_a_finite_difference(
    step: ExpertFeatureMatching, dataset: Dataset, experts: Any, model: Any
) -> None:
    setup = Setup(dataset, experts, "", model, TGDD, DistillSettings(augmentation="scale"))
    images = torch.randn(CLASSES * EACH, *dataset.shape, generator=rng(3, "images"), dtype=torch.float64)
    along = torch.randn(images.shape, generator=rng(4, "along"), dtype=torch.float64)

    def at(moved: float) -> Any:
        return step(setup, Variables(images + moved * along, torch.eye(3), torch.tensor(0.01)), 4, 7)

    slope = float((at(0.0).images * along).sum())
    assert slope == pytest.approx(float(at(1e-6).loss - at(-1e-6).loss) / 2e-6, rel=1e-5)


def test_rows_are_drawn_from_the_whole_trajectory_and_the_second_is_ahead(experts: TrajectoryStore) -> None:
    pairs = {GUIDED.epochs(experts, iteration, 0) for iteration in range(400)}
    last = experts.epochs
    wanted = {(a, b) for a in range(last + 1) for b in range(a, min(a + 2, last) + 1)}
    assert {pair[1:] for pair in pairs} == wanted
    assert {pair[0] for pair in pairs} == set(experts.experts())


def test_of_a_large_class_a_part_is_drawn_anew_in_each_step(setup: Setup, variables: Variables) -> None:
    few = GUIDED.replace(most_synthetic=2)
    moved = [few(setup, variables, number, 0).images.flatten(1).any(dim=1) for number in range(6)]
    assert all(int(each.sum()) == 2 * CLASSES for each in moved)
    assert torch.stack(moved).any(dim=0).sum() > 2 * CLASSES


class Constant(ExpertFeatureMatching):
    """⟨w_c, X_c⟩: a gradient that does not depend on the images."""

    def loss(self, setup: Setup, like: Tensor, iteration: int, seed: int) -> Callable[[Pairs], Tensor]:
        def of(pair: Pair) -> Tensor:
            slope = torch.randn(setup.dataset.shape, generator=rng(iteration, "slope", pair.label))
            return (pair.synthetic * slope).sum()

        return lambda pairs: torch.stack([of(pair) for pair in pairs]).sum()

    def project(self, setup: Setup, learned: Any) -> None:
        """Nowhere: the equivalence is one of free steps."""


class Free(TrajectoryGuidedMatching):
    def project(self, setup: Setup, learned: Any) -> None:
        """Nowhere."""


def moved(
    step: ExpertFeatureMatching, experts: TrajectoryStore, model: FlatModel, dataset: Dataset, **settings: Any
) -> Tensor:
    """How far the images are after four outer steps, and the tail that the momentum would still add to it."""
    method, settings = TGDD.replace(step=step), {"iterations": 4, "augmentation": "", **settings}
    run = Distillation(dataset, experts, method, EACH, DistillSettings(**settings), None, 0, model, "")
    state = run.start()
    first = state.images.clone()
    lines = [run.advance(state) for _ in range(4)]
    assert not any("skipped" in line for line in lines)
    share, away = settings["outer_momentum"], state.images - first
    if share:
        velocity = state.optimiser.state[state.images]["momentum_buffer"]
        away = away - settings["lr_img"] * share / (1 - share) * velocity
    return away


@pytest.mark.parametrize(("kind", "rate", "bound"), [(Constant, 0.1, 1e-5), (Free, 1e-3, 0.01)])
def test_literal_steps_of_each_class_are_one_joint_step_at_twice_the_rate(
    kind: type[ExpertFeatureMatching],
    rate: float,
    bound: float,
    experts: TrajectoryStore,
    model: FlatModel,
    dataset: Dataset,
) -> None:
    """With momentum ½ every gradient of a class acts 1 + ½ + ¼ … = 2 times, the last ones beyond the four steps; exact
    where gradients do not depend on where they are taken, and nearly so for small steps."""
    joint, literal = kind(batch_real=5), kind(batch_real=5, stepping="per-class")
    wanted = moved(joint, experts, model, dataset, outer_momentum=0.0, lr_img=2 * rate)
    found = moved(literal, experts, model, dataset, outer_momentum=0.5, lr_img=rate)
    assert float((found - wanted).norm() / wanted.norm()) < bound
    one = moved(joint, experts, model, dataset, outer_momentum=0.0, lr_img=rate)
    assert float((found - one).norm() / wanted.norm()) > 0.4, "and not at its own rate"


def test_the_losses_of_literal_steps_are_added_up(experts: TrajectoryStore, model: FlatModel, dataset: Dataset) -> None:
    losses = []
    for stepping in ("joint", "per-class"):
        method = TGDD.replace(step=Constant(stepping=stepping))  # type: ignore[arg-type]
        settings = DistillSettings(augmentation="", lr_img=1e-6)
        run = Distillation(dataset, experts, method, EACH, settings, None, 0, model, "")
        losses.append(float(run.advance(run.start())["loss"]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_literal_steps_of_ncfm_calibrate_after_all_classes_have_been_matched(
    dataset: Dataset, experts: TrajectoryStore, model: FlatModel, variables: Variables
) -> None:
    """At the same images the 2 K gradients add up to the joint one, where no augmentation is drawn."""
    literal = CHARACTERISTIC.replace(stepping="per-class")
    for augmentation, alike in (("", True), ("scale", False)):
        setup = Setup(dataset, experts, "", model, NCFM, DistillSettings(augmentation=augmentation))
        joint = CHARACTERISTIC(setup, variables, 4, 7)
        parts = [literal(setup, variables, 4, 7), *(part(variables) for part in literal.then(setup, 4, 7))]
        assert len(parts) == 2 * CLASSES
        whole = torch.stack([part.images for part in parts]).sum(dim=0)
        assert torch.allclose(whole, joint.images, rtol=1e-9, atol=1e-12) is alike, "calibration has its own draw"
        uncalibrated = CHARACTERISTIC.replace(calibration=0.0)(setup, variables, 4, 7)
        matched = torch.stack([part.images for part in parts[:CLASSES]]).sum(dim=0)
        torch.testing.assert_close(matched, uncalibrated.images, rtol=1e-9, atol=1e-12)
        for label, part in enumerate(parts):
            moved = part.images.flatten(1).any(dim=1).view(CLASSES, EACH).any(dim=1)
            assert moved.tolist() == [label % CLASSES == each for each in range(CLASSES)]
    without = CHARACTERISTIC.replace(stepping="per-class", calibration=0.0)
    assert len(without.then(setup, 4, 7)) == CLASSES - 1


@pytest.mark.parametrize("whiten", ["none", "standard"])
def test_pixels_stay_in_their_range(whiten: str, experts: TrajectoryStore, model: FlatModel) -> None:
    dataset = blobs(whiten=whiten)
    run = Distillation(dataset, experts, TGDD, EACH, DistillSettings(lr_img=100.0), None, 0, model, "")
    state = run.start()
    run.advance(state)
    pixels = dataset.preprocessing.invert(state.images)
    assert float(pixels.min()) == pytest.approx(0, abs=1e-6)
    assert float(pixels.max()) == pytest.approx(1, abs=1e-6)


def test_zca_is_undone_for_the_range_of_pixels() -> None:
    zca = blobs(whiten="zca").preprocessing
    images = zca.map_batch(torch.rand(4, 1, 8, 8, generator=rng(0, "pixels")) * 3 - 1)
    wanted = zca.invert(images).clamp(0, 1)
    zca.clip_(images)
    torch.testing.assert_close(zca.invert(images), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", [TGDD, NCFM], ids=IDS)
def test_sub_images_of_slots_are_matched(
    method: Method, experts: TrajectoryStore, model: FlatModel, dataset: Dataset
) -> None:
    settings = DistillSettings.model_validate({**method.step.usual_settings(EACH), "factor": 2})
    run = Distillation(dataset, experts, method, EACH, settings, None, 0, model, "")
    state, texture = run.start(), settings.texture
    assert state.images.shape == (CLASSES * EACH, *dataset.shape)
    seen_by = Variables(texture.decoded(state.images), texture.for_each(state.targets), state.lr)
    found = run.gradient(state).images
    step = method.step(run.step_setup, seen_by, 0, 0)
    images = state.images.clone().requires_grad_()
    (texture.decoded(images) * step.images).sum().backward()
    torch.testing.assert_close(found, images.grad)
    assert len(seen_by.images) == 4 * len(state.images)
