"""Trajectories against explicit SGD, and the traps of the published code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import reference_experts
import torch
from problems import TINY, TINY_RECIPE, blobs, tiny_experts
from torch import Tensor, nn

from astdistill.autodiff.engine import gradient_penalty
from astdistill.autodiff.training import Trainee
from astdistill.data.dataset import Split
from astdistill.data.synthetic import one_hot
from astdistill.experts.recipe import ExpertRecipe
from astdistill.experts.store import TrajectoryStore
from astdistill.experts.training import expert_gradient, make_optimiser, train_epoch, train_experts
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime.errors import DivergedError, InputError
from astdistill.runtime.files import read_lines
from astdistill.runtime.seeds import derive, rng

SMOOTH = "convnet-d1-w4-sigmoid"
"""Without the kinks of ReLU float32 stays near float64."""
STEEP = ExpertRecipe(
    epochs=5,
    batch=5,
    lr=0.05,
    momentum=0.9,
    weight_decay=0.01,
    lr_drop=0.6,
    loss_warmup_epochs=3,
    loss_warmup_start=0.4,
)
CLIPS, RATES = [0.4, 0.6, 0.8, 1.0, 1.0], [0.05, 0.05, 0.05, 0.05, 0.03]


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("form", ["image", "pixel"])
@pytest.mark.parametrize("strength", [0.0, 2.0])
def test_a_trajectory_is_explicit_sgd(tmp_path: Path, form: str, strength: float) -> None:
    """Momentum, decay, clipping ramp, restarted momentum at the rate drop, penalty looped over images; float32 against
    float64."""
    dataset = blobs(classes=2, count=6, shape=(2, 8, 8))
    recipe = STEEP.replace(penalty=strength, penalty_form=form)
    store = train_experts(dataset, model=SMOOTH, recipe=recipe, count=2, store=tmp_path, seed=3)
    for expert in (0, 1):
        wanted = reference_experts.trajectory(dataset, SMOOTH, recipe, 3, expert, CLIPS, RATES)
        found = store.rows(expert, 0, 6)
        for epoch in range(1, 6):
            assert relative(found[epoch] - found[0], wanted[epoch] - wanted[0]) < 1e-4
        curve = store.curves()[expert]
        steps = [(wanted[epoch + 1] - wanted[epoch]).square().sum().item() for epoch in range(5)]
        assert curve.step_squared == pytest.approx(steps, rel=1e-3)


def test_each_ingredient_of_the_reference_matters() -> None:
    """Otherwise the test above could not tell a training without it."""
    dataset = blobs(classes=2, count=6, shape=(2, 8, 8))
    whole = reference_experts.trajectory(dataset, SMOOTH, STEEP, 3, 0, CLIPS, RATES)
    for recipe, clips, rates in (
        (STEEP.replace(momentum=0.0), CLIPS, RATES),
        (STEEP.replace(weight_decay=0.0), CLIPS, RATES),
        (STEEP, [1.0] * 5, RATES),
        (STEEP, CLIPS, [0.05] * 5),
        (STEEP.replace(penalty=0.1), CLIPS, RATES),
        (STEEP.replace(max_grad_norm=0.5), CLIPS, RATES),
    ):
        other = reference_experts.trajectory(dataset, SMOOTH, recipe, 3, 0, clips, rates)
        assert relative(other[5] - whole[0], whole[5] - whole[0]) > 1e-3


@pytest.mark.parametrize("bound", [0.4, 1.0, 100.0])
def test_a_bounded_gradient_is_scaled_before_decay_and_momentum(tmp_path: Path, bound: float) -> None:
    dataset = blobs(classes=2, count=6, shape=(2, 8, 8))
    recipe = STEEP.replace(penalty=2.0, max_grad_norm=bound)
    found = train_experts(dataset, model=SMOOTH, recipe=recipe, count=1, store=tmp_path, seed=3).rows(0, 0, 6)
    wanted = reference_experts.trajectory(dataset, SMOOTH, recipe, 3, 0, CLIPS, RATES)
    assert relative(found[5] - found[0], wanted[5] - wanted[0]) < 1e-4


@pytest.mark.parametrize("form", ["image", "pixel"])
def test_an_epoch_in_float64_is_explicit_sgd_to_rounding(form: str) -> None:
    dataset = blobs(classes=2, count=6, shape=(2, 8, 8))
    recipe = STEEP.replace(epochs=1, penalty=2.0, penalty_form=form, augmentation="color_crop_rotate")
    wanted = reference_experts.trajectory(dataset, TINY, recipe, 3, 0, [0.4], [0.05])
    network = build_model(TINY, dataset.shape, 2, seed=derive(3, "expert", 0)).double()
    split = Split(dataset.train.whole().double(), dataset.train.labels)
    trainee = Trainee(network)
    train_epoch(trainee, make_optimiser(trainee, recipe, 0), split, 2, recipe, 0, derive(3, "expert", 0, 0))
    found = trainee.theta.detach()
    assert torch.equal(found, FlatModel(network).flatten(network))
    assert relative(found - wanted[0], wanted[1] - wanted[0]) < 1e-9


@pytest.mark.parametrize("form", ["image", "pixel"])
def test_the_penalty_is_the_loop_over_images_or_pixels(form: str) -> None:
    network = build_model("convnet-d2-w4", (3, 8, 8), 4, seed=1).double()
    images = torch.randn(5, 3, 8, 8, generator=rng(0, "images"), dtype=torch.float64).requires_grad_()
    found = gradient_penalty(images, network(images), form)  # type: ignore[arg-type]
    wanted = reference_experts.penalty(network, images, form)
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-10)
    parameters = list(network.parameters())
    for fast, slow in zip(
        *(torch.autograd.grad(value, parameters, materialize_grads=True) for value in (found, wanted)), strict=True
    ):
        torch.testing.assert_close(fast, slow, rtol=1e-8, atol=1e-12)


def test_the_penalty_of_a_known_gradient() -> None:
    """f(x) = Σ a·x has gradient a in every image: the image norm is ‖a‖, the pixel norm that of its channels."""
    slope = torch.zeros(2, 1, 2)
    slope[:, 0, 0] = torch.tensor([3.0, 4.0])
    images = torch.randn(3, 2, 1, 2).requires_grad_()
    logits = (images * slope).flatten(1)
    assert float(gradient_penalty(images, logits, "image")) == pytest.approx((5 - 1) ** 2)
    assert float(gradient_penalty(images, logits, "pixel")) == pytest.approx(((5 - 1) ** 2 + (0 - 1) ** 2) / 2)


def test_the_penalty_of_a_dead_network_has_a_finite_gradient() -> None:
    weight = torch.zeros(4, 3, requires_grad=True)
    images = torch.randn(2, 4, 1, 1).requires_grad_()
    for form in ("image", "pixel"):
        value = gradient_penalty(images, images.flatten(1) @ weight, form)  # type: ignore[arg-type]
        assert float(value.detach()) == pytest.approx(1.0)
        assert bool(torch.autograd.grad(value, weight)[0].isfinite().all())


def test_the_sound_penalty_sees_the_augmented_batch_and_the_released_one_does_not() -> None:
    network = build_model("convnet-d1-w4", (1, 8, 8), 3)
    plain, augmented, labels = torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    recipe = ExpertRecipe(penalty=1.0)
    for form, moved in (("image", augmented), ("pixel", plain)):
        copied = build_model("convnet-d1-w4", (1, 8, 8), 3)
        value = nn.functional.cross_entropy(copied(augmented), labels) + reference_experts.penalty(copied, moved, form)
        wanted = torch.cat(
            [part.flatten() for part in torch.autograd.grad(value, list(copied.parameters()), materialize_grads=True)]
        )
        trainee = Trainee(network)
        logits = expert_gradient(trainee, plain, augmented, one_hot(labels, 3), recipe.replace(penalty_form=form), 0)
        torch.testing.assert_close(logits, copied(augmented).detach())
        assert trainee.theta.grad is not None
        assert relative(trainee.theta.grad, wanted) < 1e-4


def test_rows_differ_and_begin_with_the_fresh_network(tmp_path: Path) -> None:
    """The trap of `p.detach().cpu()`, which on a CPU is no copy: a trajectory of one frozen point."""
    dataset = blobs()
    store = tiny_experts(tmp_path, dataset)
    for expert in (0, 1):
        network = build_model(TINY, dataset.shape, 3, seed=derive(0, "expert", expert))
        rows = store.rows(expert, 0, 7)
        assert rows.shape == (7, FlatModel(network).size) == (7, store.identity.parameters)
        assert torch.equal(rows[0], FlatModel(network).flatten(network))
        assert len({row.numpy().tobytes() for row in rows}) == 7
    assert not torch.equal(store.rows(0, 0, 7), store.rows(1, 0, 7))


def test_experts_learn_and_their_curves_say_so(tmp_path: Path) -> None:
    store = tiny_experts(tmp_path, blobs())
    for curve in store.curves():
        assert len(curve.test_accuracy) == len(curve.train_accuracy) == len(curve.step_squared) == 6
        assert curve.test_accuracy[-1] > 90
    log = read_lines(store.folder / "log.jsonl")
    assert [(line["expert"], line["epoch"]) for line in log] == [
        (expert, epoch) for expert in (0, 1) for epoch in range(6)
    ]


def test_an_expert_depends_on_its_number_and_the_seed_alone(tmp_path: Path) -> None:
    dataset = blobs()
    torch.manual_seed(5)
    one = train_experts(dataset, model=TINY, recipe=TINY_RECIPE, count=1, store=tmp_path / "a")
    torch.manual_seed(6)
    three = train_experts(dataset, model=TINY, recipe=TINY_RECIPE, count=3, store=tmp_path / "b")
    assert torch.equal(one.rows(0, 0, 7), three.rows(0, 0, 7))
    again = train_experts(dataset, model=TINY, recipe=TINY_RECIPE, count=3, store=tmp_path / "a")
    assert torch.equal(again.rows(2, 0, 7), three.rows(2, 0, 7))
    other = train_experts(dataset, model=TINY, recipe=TINY_RECIPE, count=1, store=tmp_path / "b", seed=1)
    assert not torch.equal(other.rows(0, 0, 1), three.rows(0, 0, 1))


def test_a_network_with_dropout_is_reproducible_too(tmp_path: Path) -> None:
    """Dropout draws from torch's global generator; the trajectory must not depend on what was drawn before."""
    rows = []
    for number in (1, 2):
        torch.manual_seed(number)
        rows.append(tiny_experts(tmp_path / str(number), blobs(), count=1, model="problems:dropout_net").rows(0, 0, 7))
    assert torch.equal(*rows)


def test_bfloat16_rows_are_the_rounded_ones(tmp_path: Path) -> None:
    dataset = blobs()
    whole = tiny_experts(tmp_path, dataset, count=1)
    small = train_experts(dataset, model=TINY, recipe=TINY_RECIPE, count=1, store=tmp_path, dtype="bfloat16")
    assert small.folder != whole.folder
    found = small.rows(0, 0, 7)
    assert found.dtype == torch.float32
    assert torch.equal(found, whole.rows(0, 0, 7).bfloat16().float())
    assert small.path(0).stat().st_size < 0.6 * whole.path(0).stat().st_size


def test_adam_trains(tmp_path: Path) -> None:
    recipe = TINY_RECIPE.replace(optimiser="adam", lr=0.02, momentum=0.0, epochs=3)
    store = tiny_experts(tmp_path, blobs(), count=1, recipe=recipe)
    assert store.curves()[0].test_accuracy[-1] > 90


def test_a_diverging_recipe_is_named_and_earlier_experts_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from astdistill.experts import training

    wild = TINY_RECIPE.replace(lr=1e6, penalty=1.0)
    with pytest.raises(
        DivergedError, match=r"Expert 0 of .* stopped being finite in epoch \d \(learning rate 1e\+06\); lower"
    ):
        tiny_experts(tmp_path / "wild", blobs(), recipe=wild)
    assert not list((tmp_path / "wild").glob("*/*[0-9].safetensors"))

    good = training.train_epoch

    def only_the_first(trainee, optimiser, split, classes, recipe, epoch, seed):
        if seed == derive(0, "expert", 1, 2):
            trainee.theta.detach()[:1] = float("nan")
        return good(trainee, optimiser, split, classes, recipe, epoch, seed)

    monkeypatch.setattr(training, "train_epoch", only_the_first)
    with pytest.raises(DivergedError, match=r"Expert 1 of .* in epoch 2"):
        tiny_experts(tmp_path / "late", blobs())
    (folder,) = (tmp_path / "late").iterdir()
    assert TrajectoryStore.open(folder).experts() == [0]
    monkeypatch.undo()
    mended = tiny_experts(tmp_path / "late", blobs())
    assert torch.equal(mended.rows(1, 0, 7), tiny_experts(tmp_path / "fresh", blobs()).rows(1, 0, 7))


def test_no_experts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 experts were asked for"):
        tiny_experts(tmp_path, blobs(), count=0)
    assert not list(tmp_path.iterdir())


def test_the_recipe_on_disk_is_whole(tmp_path: Path) -> None:
    store = tiny_experts(tmp_path, blobs(), count=1)
    written = json.loads((store.folder / "recipe.json").read_text())
    assert ExpertRecipe.model_validate(written["identity"]["recipe"]) == TINY_RECIPE
