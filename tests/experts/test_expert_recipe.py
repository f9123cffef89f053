"""The numbers of a recipe, epoch by epoch."""

from __future__ import annotations

import pytest

from astdistill.experts.recipe import ExpertRecipe
from astdistill.methods.trajectory_matching import AST, AST_AS_RELEASED, MTT


def test_the_clipping_loss_grows_from_a_half_to_one_in_ten_epochs() -> None:
    clips = [AST.recipe.clip(epoch) for epoch in range(13)]
    assert clips == pytest.approx([0.50, 0.55, 0.60, 0.65, 0.70, 0.75, 0.80, 0.85, 0.90, 0.95, 1, 1, 1], abs=1e-12)
    assert clips[10:] == [1.0, 1.0, 1.0]
    assert [MTT.recipe.clip(epoch) for epoch in range(3)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("epochs", "length"), [(50, 10), (20, 4), (15, 3), (6, 2), (5, 1), (1, 1)])
def test_the_clipping_loss_covers_a_fifth_of_the_epochs(epochs: int, length: int) -> None:
    recipe = AST.recipe.replace(epochs=epochs)
    assert recipe.clipped_epochs == length
    clips = [recipe.clip(epoch) for epoch in range(epochs)]
    assert clips == pytest.approx([0.5 + 0.5 * epoch / length for epoch in range(length)] + [1] * (epochs - length))
    assert recipe.replace(loss_warmup_epochs=0).clip(0) == 1.0


def test_a_fifth_of_the_epochs_is_the_same_recipe_as_their_number() -> None:
    """So that stores of AST's experts, named when the length was a number, are used on; a file holds the number."""
    written, number = AST.recipe.to_json(), AST.recipe.replace(loss_warmup_epochs=10)
    assert written["loss_warmup_epochs"] == 10
    assert ExpertRecipe.model_validate(written) == AST.recipe == number
    assert AST.recipe.digest() == number.digest() == "a279dfed1c86"
    assert len({AST.recipe, number, MTT.recipe}) == 2
    assert ExpertRecipe.model_validate(written).replace(epochs=15).clipped_epochs == 10
    assert AST.recipe.replace(epochs=15) != number.replace(epochs=15)


@pytest.mark.parametrize(("epochs", "last"), [(50, 26), (20, 11), (5, 3), (4, 3)])
def test_the_rate_drops_once_epoch_half_plus_one_has_ended(epochs: int, last: int) -> None:
    recipe = AST.recipe.replace(epochs=epochs)
    rates = [recipe.rate(epoch) for epoch in range(epochs)]
    assert rates == [0.003] * (last + 1) + [pytest.approx(0.0018)] * (epochs - last - 1)
    assert recipe.drop_epoch == last + 1


def test_published_recipes() -> None:
    assert MTT.expert == ExpertRecipe(
        epochs=50,
        batch=256,
        optimiser="sgd",
        lr=0.01,
        momentum=0.0,
        weight_decay=0.0,
        penalty=0.0,
        loss_warmup_epochs=0,
    )
    assert MTT.recipe.rate(49) == 0.01
    assert (AST.recipe.lr, AST.recipe.momentum, AST.recipe.weight_decay, AST.recipe.lr_drop) == (0.003, 0.9, 1e-3, 0.6)
    assert (AST.recipe.penalty, AST.recipe.penalty_form) == (2.0, "image")
    assert AST_AS_RELEASED.expert == AST.recipe.replace(penalty_form="pixel", max_grad_norm=0.0)
    assert AST_AS_RELEASED.recipe.replace(epochs=15).clipped_epochs == 10


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"lr": 0.0}, {"momentum": 1.0}, {"penalty": -1.0}, {"lr_drop": 0.0}, {"optimiser": "lamb"}],
    ids=str,
)
def test_impossible_numbers_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ExpertRecipe(**wrong)
