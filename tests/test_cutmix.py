"""Cutmix: pixels and labels of a rectangle; how often; and the two forms of a dropping learning rate that go with it."""

from __future__ import annotations

import math

import pytest
import torch

from astdistill.autodiff.training import Trainee
from astdistill.data.augmentation import CutMix, cut_and_mixed, draw_cutmix
from astdistill.evaluation.protocol import NCFM_PROTOCOL, TGDD_PROTOCOL, EvalRecipe
from astdistill.evaluation.training import TensorExamples, train_epochs
from astdistill.experts.recipe import ExpertRecipe
from astdistill.methods.tgdd import TGDD
from astdistill.models.registry import build_model
from astdistill.runtime.seeds import rng


def test_a_rectangle_and_its_share_of_the_label_come_from_the_partner() -> None:
    images, targets = torch.randn(3, 2, 4, 6), torch.eye(3)
    found, labels = CutMix(torch.tensor([1, 2, 0]), slice(1, 3), slice(2, 5))(images, targets)
    for number, partner in enumerate([1, 2, 0]):
        for row in range(4):
            for column in range(6):
                source = partner if 1 <= row < 3 and 2 <= column < 5 else number
                assert torch.equal(found[number, :, row, column], images[source, :, row, column])
        assert labels[number, partner] == pytest.approx(6 / 24)
        assert labels[number, number] == pytest.approx(18 / 24)


def test_half_of_the_batches_are_mixed_and_areas_are_uniform() -> None:
    generator, drawn = rng(0, "cutmix"), []
    for _ in range(4000):
        drawn.append(draw_cutmix(0.5, 8, (64, 64), generator))
    mixed = [each for each in drawn if each is not None]
    assert abs(len(mixed) - 2000) < 4 * math.sqrt(1000)
    inside = [each for each in mixed if each.rows.start > 0 and each.rows.stop < 64]
    sides = torch.tensor([each.rows.stop - each.rows.start for each in inside])
    assert bool((sides % 2 == 0).all()), "an even side around a centre, unless the border cuts it off"
    whole = torch.tensor([(each.rows.stop - each.rows.start) / 64 for each in mixed])
    assert 0.3 < float(whole.mean()) < 0.6
    assert all(sorted(each.partner.tolist()) == list(range(8)) for each in mixed)


def test_without_cutmix_nothing_is_drawn() -> None:
    generator, images, targets = rng(0, "cutmix"), torch.randn(2, 1, 4, 4), torch.eye(2)
    before = generator.get_state()
    found = cut_and_mixed(images, targets, 0.0, generator)
    assert found[0] is images
    assert found[1] is targets
    assert torch.equal(generator.get_state(), before)


def test_a_small_part_of_the_labels_is_what_networks_learn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluation's networks see mixed images with mixed labels."""
    seen: list[torch.Tensor] = []
    gradient = Trainee.gradient

    def noted(self: Trainee, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(targets)
        return gradient(self, images, targets)

    monkeypatch.setattr(Trainee, "gradient", noted)
    recipe = EvalRecipe(name="mixed", epochs=8, cutmix=1.0, augmentation="")
    examples = TensorExamples(torch.randn(6, 1, 8, 8), torch.eye(6), 0.01)
    trainee = Trainee(build_model("convnet-d1-w4", (1, 8, 8), 6, seed=0))
    assert len(list(train_epochs(trainee, examples, recipe, lambda epoch: rng(epoch, "mixed")))) == 8
    assert all(torch.allclose(each.sum(1), torch.ones(6)) for each in seen)
    assert any(bool(((each > 0) & (each < 1)).any()) for each in seen)


def test_learning_rates_drop_at_each_share_with_the_same_optimiser(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, taken = TGDD_PROTOCOL.replace(epochs=12, check_every=12), []
    step = torch.optim.SGD.step

    def noted(self: torch.optim.SGD, *given: object) -> object:
        taken.append((id(self), self.param_groups[0]["lr"]))
        return step(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.SGD, "step", noted)
    examples = TensorExamples(torch.randn(3, 1, 8, 8), torch.eye(3), 0.01)
    trainee = Trainee(build_model("convnet-d1-w4", (1, 8, 8), 3, seed=0))
    list(train_epochs(trainee, examples, recipe, lambda epoch: rng(epoch, "drops")))
    assert len({own for own, _ in taken}) == 1
    assert [rate for _, rate in taken] == pytest.approx([0.01] * 8 + [0.002] * 2 + [0.0004] * 2)


def test_experts_of_tgdd_drop_twice_and_older_recipes_once() -> None:
    recipe = TGDD.recipe
    rates = [recipe.rate(epoch) for epoch in range(60)]
    assert rates == pytest.approx([0.01] * 40 + [0.002] * 10 + [0.0004] * 10)
    assert not any(recipe.starts_anew(epoch) for epoch in range(60))
    once = ExpertRecipe(lr_drop=0.5)
    assert [epoch for epoch in range(50) if once.starts_anew(epoch)] == [27]
    assert not {"drops_at", "cutmix"} & once.to_json().keys()
    assert not {"drops_at", "cutmix", "optimiser"} & EvalRecipe(name="plain").to_json().keys()
    assert EvalRecipe.model_validate(NCFM_PROTOCOL.to_json()) == NCFM_PROTOCOL


def test_ncfm_trains_by_adamw() -> None:
    """One step by hand: the first of Adam is the sign of the gradient, and decay scales θ."""
    recipe = NCFM_PROTOCOL.replace(epochs=1, check_every=1, augmentation="", cutmix=0.0, drops_at=())
    examples = TensorExamples(torch.randn(3, 1, 8, 8), torch.eye(3), 0.001)
    trainee = Trainee(build_model("convnet-d1-w4", (1, 8, 8), 3, seed=0))
    before = trainee.theta.detach().clone()
    list(train_epochs(trainee, examples, recipe, lambda epoch: rng(epoch, "adamw")))
    assert trainee.theta.grad is not None
    slope = trainee.theta.grad
    wanted = before * (1 - 0.001 * 0.01) - 0.001 * slope / (slope.abs() + 1e-8)
    torch.testing.assert_close(trainee.theta.detach(), wanted, rtol=0, atol=1e-6)
