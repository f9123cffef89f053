from __future__ import annotations

import math
from typing import Any

import pytest
import reference_evaluation
import torch
from torch import Tensor, nn

from astdistill.autodiff.training import accuracy, confusion
from astdistill.data.augmentation import apply, draw
from astdistill.data.dataset import Split
from astdistill.data.textures import ORDINARY, TextureSpec
from astdistill.evaluation.protocol import PROTOCOLS, EvalRecipe
from astdistill.evaluation.training import TensorExamples, train_network
from astdistill.runtime.seeds import rng

SHAPE = (3, 6, 6)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def examples(count: int = 10, lr: float = 0.1, texture: TextureSpec = ORDINARY) -> TensorExamples:
    generator = rng(0, "examples")
    images = torch.randn(count, *texture.extent(SHAPE), generator=generator, dtype=torch.float64)
    targets = torch.randn(count, 3, generator=generator, dtype=torch.float64).softmax(dim=1)
    return TensorExamples(images, targets, lr, texture)


def held_out(count: int = 30) -> Split:
    generator = rng(0, "held out")
    return Split(
        torch.randn(count, *SHAPE, generator=generator, dtype=torch.float64),
        torch.randint(3, (count,), generator=generator),
    )


def by_hand(start: nn.Sequential, data: TensorExamples, recipe: EvalRecipe) -> list[Tensor]:
    """SGD written out: g = ∇ℓ + decay θ, v = μ v + g, θ = θ − lr v; v starts anew when the rate drops."""
    values = [parameter.detach().clone().requires_grad_() for parameter in start.parameters()]
    lr, momentum = data.lr, recipe.momentum
    velocity = [torch.zeros_like(value) for value in values]
    for epoch in range(recipe.epochs):
        if epoch == recipe.epochs // 2 + 1:
            lr, momentum = lr * recipe.decay_factor, recipe.momentum_after or momentum
            velocity = [torch.zeros_like(value) for value in values]
        generator = rng(7, "evaluate", 0, epoch)
        order = torch.randperm(len(data.images), generator=generator)
        for first in range(0, len(order), recipe.batch):
            batch = order[first : first + recipe.batch].repeat(data.texture.samples)
            seen = data.images[batch]
            if data.texture.canvas > 1:
                corners = [
                    torch.randint(data.texture.canvas * side, (len(batch),), generator=generator).tolist()
                    for side in SHAPE[1:]
                ]
                moved = [image.roll((-row, -column), (1, 2)) for image, row, column in zip(seen, *corners, strict=True)]
                seen = torch.stack(moved)[:, :, : SHAPE[1], : SHAPE[2]]
            if recipe.augmentation:
                seen = apply(seen, draw(recipe.augmentation, len(batch), SHAPE, generator))
            hidden = torch.tanh(seen.flatten(1) @ values[0].T + values[1])
            logits = hidden @ values[2].T + values[3]
            logarithm = logits - logits.exp().sum(dim=1, keepdim=True).log()
            value = -(data.targets[batch] * logarithm).sum() / len(batch)
            gradient = torch.autograd.grad(value, values)
            with torch.no_grad():
                for index, (parameter, slope) in enumerate(zip(values, gradient, strict=True)):
                    velocity[index] = momentum * velocity[index] + slope + recipe.weight_decay * parameter
                    parameter -= lr * velocity[index]
    return [value.detach() for value in values]


@pytest.mark.parametrize("augmentation", ["", "color_crop_cutout_flip_scale_rotate"])
@pytest.mark.parametrize("momentum_after", [None, 0.8])
@pytest.mark.parametrize(
    "texture",
    [ORDINARY, TextureSpec(canvas=2), TextureSpec(canvas=3, samples=2)],
    ids=["images", "textures", "several crops"],
)
def test_training_equals_sgd_written_out(augmentation: str, momentum_after: float | None, texture: TextureSpec) -> None:
    recipe = EvalRecipe(
        name="short",
        epochs=7,
        batch=4,
        decay_factor=0.5,
        momentum_after=momentum_after,
        augmentation=augmentation,
        weight_decay=0.01,
    )
    data, trained = examples(texture=texture), network()
    expected = by_hand(network(), data, recipe)
    train_network(trained, data, recipe, held_out(), lambda epoch: rng(7, "evaluate", 0, epoch))
    for parameter, value in zip(trained.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value, rtol=1e-10, atol=1e-12)
    assert not torch.equal(next(trained.parameters()), next(network().parameters()))


MTT_NUMBERS = {"decay": 5e-4, "factor": 0.1, "momentum_after": 0.9}
AST_NUMBERS = {"decay": 1e-3, "factor": 0.5, "momentum_after": 0.8, "check_every": 20}


@pytest.mark.parametrize(("name", "numbers"), [("mtt", MTT_NUMBERS), ("ast-released", AST_NUMBERS)], ids=str)
@pytest.mark.parametrize("epochs", [1000, 41])
def test_a_protocol_is_the_released_loop_to_the_bit(name: str, numbers: dict[str, Any], epochs: int) -> None:
    """For E = 1000: 502 passes at the full rate and 499 below it; checks after 1, 21, … 1001 passes."""
    data, tested, wanted, trained = examples(lr=0.05), held_out(), network(), network()
    rates, checks = reference_evaluation.released(
        wanted,
        data.images,
        data.targets,
        data.lr,
        lambda: accuracy(wanted, tested),
        lambda number: torch.randperm(len(data.images), generator=rng(7, "evaluate", 0, number)),
        epochs=epochs,
        **numbers,
    )
    recipe = PROTOCOLS[name].replace(epochs=epochs, augmentation="")
    found = train_network(trained, data, recipe, tested, lambda epoch: rng(7, "evaluate", 0, epoch))
    for parameter, value in zip(trained.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(parameter, value)
    assert recipe.passes == len(rates) == epochs + 1
    assert recipe.decays_at == rates.count(data.lr) == epochs // 2 + 2
    assert found.final == accuracy(wanted, tested)
    assert [passes for passes in range(1, recipe.passes + 1) if recipe.checks_after(passes)] == [p for p, _ in checks]
    assert found.best == (max(value for _, value in [*checks, (epochs + 1, found.final)]) if checks else None)
    if epochs == 1000:
        assert (rates.count(data.lr), len(rates) - rates.count(data.lr)) == (502, 499)
        assert [passes for passes, _ in checks] == (list(range(1, 1002, 20)) if name == "ast-released" else [])


def test_accuracy_counts_every_image_once_over_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("astdistill.autodiff.training.BATCH", 7)
    split = held_out(30)
    expected = 100 * (network()(split.images).argmax(dim=1) == split.labels).double().mean()
    assert accuracy(network(), split) == pytest.approx(float(expected))


def test_the_confusion_matrix_counts_every_image_once_in_its_own_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("astdistill.autodiff.training.BATCH", 7)
    split = held_out(30)
    expected = [[0] * 3 for _ in range(3)]
    for image, label in zip(split.whole(), split.labels.tolist(), strict=True):
        expected[label][int(network()(image[None]).argmax())] += 1
    counts = confusion(network(), split, 3)
    assert counts.tolist() == expected
    assert 100 * int(counts.trace()) / 30 == pytest.approx(accuracy(network(), split))
    assert sum(cell > 0 for row in expected for cell in row) > 4


def test_a_network_is_tested_once_for_all_its_figures() -> None:
    recipe, split, trained = EvalRecipe(name="short", epochs=2, augmentation=""), held_out(30), network()
    result = train_network(trained, examples(), recipe, split, lambda epoch: rng(0, epoch))
    assert result.final == accuracy(trained, split)
    assert result.confusion == tuple(map(tuple, confusion(trained, split, 3).tolist()))
    assert result.by_class is not None
    for label, found in enumerate(result.by_class):
        own = Split(split.images[split.labels == label], split.labels[split.labels == label])
        assert found == pytest.approx(accuracy(trained, own))
    two = Split(split.images[split.labels > 0], split.labels[split.labels > 0])
    found = train_network(network(), examples(), recipe, two, lambda epoch: rng(0, epoch))
    assert found.by_class is not None
    assert found.by_class[0] is None


def test_above_a_hundred_classes_no_confusion_matrix_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("astdistill.evaluation.training.MOST_CONFUSED", 2)
    result = train_network(
        network(),
        examples(),
        EvalRecipe(name="short", epochs=1, augmentation=""),
        held_out(),
        lambda epoch: rng(0, epoch),
    )
    assert result.confusion is None
    assert result.by_class is not None


def test_a_set_smaller_than_the_batch_is_one_step_an_epoch() -> None:
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    trained = network()
    trained.register_forward_hook(count)
    recipe = EvalRecipe(name="short", epochs=3, augmentation="")
    train_network(trained, examples(10), recipe, held_out(5), lambda epoch: rng(0, epoch))
    assert steps == 3 + 1  # and one batch of the test


def test_best_is_the_maximum_over_checks_and_absent_without_them() -> None:
    recipe = EvalRecipe(name="short", epochs=9, augmentation="", check_every=2, reported="best")
    seen: list[float] = []
    trained = network()
    data = examples(lr=2.0)

    def generator(epoch: int) -> torch.Generator:
        if epoch in (2, 4, 6, 8):  # what the check after that many epochs saw
            seen.append(accuracy(trained, held_out()))
        return rng(0, epoch)

    result = train_network(trained, data, recipe, held_out(), generator)
    assert len(set(seen)) > 1
    assert result.best == max(*seen, result.final)
    assert (
        train_network(
            network(), data, recipe.replace(check_every=0, reported="final"), held_out(), lambda e: rng(0, e)
        ).best
        is None
    )


def test_checking_on_the_way_does_not_change_the_training() -> None:
    """A check puts the network into evaluation mode; batch norm shows whether training goes on in its own."""

    def run(check_every: int) -> nn.Module:
        trained = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)).double()
        torch.manual_seed(0)
        for parameter in trained.parameters():
            nn.init.normal_(parameter, std=0.3)
        recipe = EvalRecipe(name="short", epochs=5, augmentation="", check_every=check_every)
        train_network(trained, examples(), recipe, held_out(), lambda epoch: rng(0, epoch))
        return trained

    never, often = run(0).state_dict(), run(1).state_dict()
    assert int(often["1.num_batches_tracked"]) == 5
    for name, value in never.items():
        torch.testing.assert_close(often[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("where", [0, 3])
def test_a_loss_that_is_not_finite_is_reported_and_the_accuracy_is_chance(where: int) -> None:
    data = examples()
    data.images[where, 0, 0, 0] = math.nan
    recipe = EvalRecipe(name="short", epochs=2, augmentation="")
    split = held_out()
    result = train_network(network(), data, recipe, split, lambda epoch: rng(0, epoch))
    assert result.diverged
    assert result.final == pytest.approx(100 * float((split.labels == 0).double().mean()))
    assert not train_network(network(), examples(), recipe, split, lambda epoch: rng(0, epoch)).diverged
