"""Sharpness-aware experts (FTD) against GSAM written out parameter by parameter."""

from __future__ import annotations

from pathlib import Path

import pytest
import reference_experts
import torch
from problems import TINY, blobs
from torch import Tensor

from astdistill.autodiff.training import Trainee
from astdistill.data.dataset import Split
from astdistill.data.synthetic import one_hot
from astdistill.experts.recipe import ExpertRecipe
from astdistill.experts.training import (
    expert_gradient,
    loss_gradient,
    make_optimiser,
    sharpness_aware,
    train_epoch,
    train_experts,
)
from astdistill.methods.trajectory_matching import AST, DATM, FTD, MTT
from astdistill.models.registry import build_model
from astdistill.runtime.seeds import derive, rng

SMOOTH = "convnet-d1-w4-sigmoid"
FLAT = ExpertRecipe(epochs=3, batch=5, lr=0.05, momentum=0.9, weight_decay=0.01, sam_rho=0.3, surrogate_gap=0.7)
CLIPS, RATES = [1.0] * 3, [0.05] * 3


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


CHANGES = [{}, {"adaptive_sam": True}, {"surrogate_gap": 0.0}, {"penalty": 2.0}, {"max_grad_norm": 0.4}]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_trajectory_is_explicit_gsam(tmp_path: Path, changes: dict[str, float]) -> None:
    dataset, recipe = blobs(classes=2, count=6, shape=(2, 8, 8)), FLAT.replace(**changes)
    found = train_experts(dataset, model=SMOOTH, recipe=recipe, count=1, store=tmp_path, seed=3).rows(0, 0, 4)
    wanted = reference_experts.trajectory(dataset, SMOOTH, recipe, 3, 0, CLIPS, RATES)
    assert relative(found[3] - found[0], wanted[3] - wanted[0]) < 1e-4


@pytest.mark.parametrize("adaptive", [False, True], ids=["SAM", "ASAM"])
@pytest.mark.parametrize("form", ["image", "pixel"])
def test_an_epoch_in_float64_is_explicit_gsam_to_rounding(form: str, adaptive: bool) -> None:
    """The same batch and the same augmentation at both points: no draw comes between them."""
    dataset = blobs(classes=2, count=6, shape=(2, 8, 8))
    recipe = FLAT.replace(epochs=1, penalty=0.5, penalty_form=form, augmentation="color_crop_rotate")
    recipe = recipe.replace(adaptive_sam=adaptive)
    wanted = reference_experts.trajectory(dataset, TINY, recipe, 3, 0, [1.0], [0.05])
    trainee = Trainee(build_model(TINY, dataset.shape, 2, seed=derive(3, "expert", 0)).double())
    split = Split(dataset.train.whole().double(), dataset.train.labels)
    train_epoch(trainee, make_optimiser(trainee, recipe, 0), split, 2, recipe, 0, derive(3, "expert", 0, 0))
    assert relative(trainee.theta.detach() - wanted[0], wanted[1] - wanted[0]) < 1e-9


def test_each_number_of_the_reference_matters() -> None:
    """Otherwise the tests above could not tell a training without it."""
    dataset = blobs(classes=2, count=6, shape=(2, 8, 8))
    whole = reference_experts.trajectory(dataset, SMOOTH, FLAT, 3, 0, CLIPS, RATES)
    changes = {"sam_rho": 0.0}, {"sam_rho": 0.2}, {"surrogate_gap": 0.0}, {"adaptive_sam": True}
    for recipe in (FLAT.replace(**change) for change in changes):
        other = reference_experts.trajectory(dataset, SMOOTH, recipe, 3, 0, CLIPS, RATES)
        assert relative(other[3] - whole[0], whole[3] - whole[0]) > 1e-3


def batch() -> tuple[Trainee, Tensor, Tensor]:
    trainee = Trainee(build_model(TINY, (1, 8, 8), 3, seed=1).double())
    return (
        trainee,
        torch.randn(6, 1, 8, 8, generator=rng(0, "images"), dtype=torch.float64),
        one_hot(torch.arange(6) % 3, 3).double(),
    )


def slope(trainee: Trainee) -> Tensor:
    assert trainee.theta.grad is not None
    return trainee.theta.grad.clone()


def test_the_step_starts_where_it_was_and_the_logits_are_those_of_there() -> None:
    trainee, images, targets = batch()
    before = trainee.theta.detach().clone()
    plain = loss_gradient(trainee, images, images, targets, FLAT, 0)
    found = expert_gradient(trainee, images, images, targets, FLAT, 0)
    assert torch.equal(found, plain)
    assert torch.equal(trainee.theta.detach(), before)


def test_what_is_taken_away_is_across_the_gradient_uphill() -> None:
    trainee, images, targets = batch()
    expert_gradient(trainee, images, images, targets, FLAT.replace(surrogate_gap=0.0), 0)
    uphill = slope(trainee)
    expert_gradient(trainee, images, images, targets, FLAT, 0)
    across = uphill - slope(trainee)
    assert float(across.norm()) > 1e-3 * float(uphill.norm())
    assert abs(float(across @ uphill)) < 1e-12


@pytest.mark.parametrize("adaptive", [False, True], ids=["SAM", "ASAM"])
def test_a_gradient_of_zero_stays_zero(adaptive: bool) -> None:
    trainee, images, _ = batch()

    def flat() -> Tensor:
        assert trainee.theta.grad is not None
        trainee.theta.grad.zero_()
        return images

    sharpness_aware(trainee, flat, FLAT.replace(adaptive_sam=adaptive))
    assert torch.equal(slope(trainee), torch.zeros_like(trainee.theta))
    assert bool(trainee.theta.isfinite().all())


def test_stores_that_were_trained_before_keep_their_names() -> None:
    """A recipe without sharpness is written as it was before there was any."""
    assert not {"sam_rho", "adaptive_sam", "surrogate_gap"} & MTT.recipe.to_json().keys()
    assert MTT.recipe.digest() == "046a670e1418"
    assert AST.recipe.digest() == "a279dfed1c86"
    assert ExpertRecipe.model_validate(FTD.recipe.to_json()) == FTD.expert
    assert FTD.recipe.to_json()["sam_rho"] == 0.01
    assert FTD.expert == MTT.recipe.replace(sam_rho=0.01, adaptive_sam=True, surrogate_gap=0.3)
    plain = FTD.recipe.replace(adaptive_sam=False)
    assert plain.digest() == "717b1da2b368", "what FTD's experts were before they climbed adaptively"
    assert FTD.recipe.digest() != plain.digest()
    assert FTD.recipe.replace(epochs=100) == DATM.expert


@pytest.mark.parametrize("engine", ["eager", "native", "compiled"])
def test_every_engine_climbs_adaptively(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One direction of each engine in float32, against the eager one in float64."""
    recipe, plain = FTD.recipe.replace(sam_rho=0.5), FTD.recipe.replace(sam_rho=0.5, adaptive_sam=False)
    images, targets = torch.randn(4, 3, 16, 16, generator=rng(0, "images")), one_hot(torch.arange(4) % 3, 3)

    def found(recipe: ExpertRecipe, dtype: torch.dtype) -> Tensor:
        trainee = Trainee(build_model("convnet-d2", (3, 16, 16), 3, seed=1).to(dtype))
        expert_gradient(trainee, images.to(dtype), images.to(dtype), targets.to(dtype), recipe, 0)
        return slope(trainee)

    exact, other = found(recipe, torch.float64), found(plain, torch.float64)
    monkeypatch.setenv("ASTDISTILL_ENGINE", engine)
    assert relative(found(recipe, torch.float32), exact) < 1e-4
    assert relative(other, exact) > 1e-2
