"""Protocols that count steps: Adam, tests after some of them, the end in the middle of an epoch, and how it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from problems import blobs
from torch import nn
from torch.nn.functional import cross_entropy

from astdistill.cli.options import parse
from astdistill.data.augmentation import apply, draw
from astdistill.data.dataset import Split
from astdistill.data.synthetic import SyntheticSet
from astdistill.evaluation.protocol import MTT_PROTOCOL, RAT_PROTOCOL, EvalRecipe, protocol
from astdistill.evaluation.rows import random_real
from astdistill.evaluation.runner import evaluate_all
from astdistill.evaluation.scores import Scores, table
from astdistill.evaluation.training import TensorExamples, train_network
from astdistill.runtime.errors import InputError
from astdistill.runtime.seeds import rng

SHAPE = (3, 6, 6)
FEW = RAT_PROTOCOL.replace(steps=(2, 5, 7), batch=4, augmentation="flip")
LAST = FEW.replace(reported="final")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def drawn(count: int, purpose: str) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=rng(0, purpose), dtype=torch.float64)


def test_training_is_adam_written_out_and_tested_after_each_budget() -> None:
    """Ten images in batches of 4, 4 and 2: the seventh step is the first of the third pass."""
    weights = 2 * torch.rand(10, 3, generator=rng(0, "weights"), dtype=torch.float64)
    data, found = TensorExamples(drawn(10, "examples"), weights, 0.01), network()
    tested = Split(drawn(30, "tested"), torch.randint(3, (30,), generator=rng(0, "labels")))
    result = train_network(found, data, FEW, tested, lambda epoch: rng(7, "evaluate", 0, epoch))
    by_hand, accuracies, number = network(), [], 0
    first = [torch.zeros_like(part) for part in by_hand.parameters()]
    second = [torch.zeros_like(part) for part in by_hand.parameters()]
    for epoch in range(3):
        generator = rng(7, "evaluate", 0, epoch)
        for rows in torch.randperm(10, generator=generator).split(4):
            if number == 7:
                break
            number += 1
            seen = apply(data.images[rows], draw("flip", len(rows), SHAPE, generator))
            slopes = torch.autograd.grad(cross_entropy(by_hand(seen), data.targets[rows]), list(by_hand.parameters()))
            for part, m, v, slope in zip(by_hand.parameters(), first, second, slopes, strict=True):
                m.mul_(0.9).add_(0.1 * slope)
                v.mul_(0.999).add_(0.001 * slope**2)
                part.data -= 0.01 * m / (1 - 0.9**number) / ((v / (1 - 0.999**number)).sqrt() + 1e-8)
            if number in FEW.steps:
                right = by_hand(tested.images).argmax(dim=1) == tested.labels
                accuracies.append(100 * float(right.double().mean()))
    for part, wanted in zip(found.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(part, wanted, rtol=1e-9, atol=1e-12)
    assert result.by_steps is not None
    assert result.by_steps == pytest.approx(tuple(accuracies))
    assert result.best == max(result.by_steps)
    assert result.final == result.by_steps[-1]


def test_epochs_counted_as_released_end_after_the_same_steps() -> None:
    data = TensorExamples(drawn(10, "examples"), 2 * torch.rand(10, 3, generator=rng(0, "weights")).double(), 0.01)
    tested = Split(drawn(30, "tested"), torch.randint(3, (30,), generator=rng(0, "labels")))
    networks = {}
    for released in (False, True):
        networks[released] = network()
        recipe = FEW.replace(released_count=released)
        result = train_network(networks[released], data, recipe, tested, lambda epoch: rng(7, "evaluate", 0, epoch))
        assert result.by_steps is not None
        assert len(result.by_steps) == 3
    for one, other in zip(networks[False].parameters(), networks[True].parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        (LAST, {"check_every": 1, "checks_from": 0.5}),
        (
            LAST.replace(steps=(), epochs=4, drops_at=(0.5,)),
            {"decay_at": 0.2, "momentum_after": 0.1, "checks_from": 0.5},
        ),
        (
            LAST.replace(steps=(), epochs=4, cosine=1.0),
            {"decay_at": 0.2, "momentum_after": 0.1, "decay_factor": 0.5, "drops_at": (0.3,), "checks_from": 0.5},
        ),
        (LAST.replace(steps=(), epochs=4), {"checks_from": 0.5}),
    ],
)
def test_what_is_said_to_have_no_effect_has_none(recipe: EvalRecipe, changes: dict[str, Any]) -> None:
    assert set(recipe.unread()) == set(changes)
    data = TensorExamples(drawn(10, "examples"), 2 * torch.rand(10, 3, generator=rng(0, "weights")).double(), 0.01)
    tested = Split(drawn(30, "tested"), torch.randint(3, (30,), generator=rng(0, "labels")))
    results = []
    for each in (recipe, recipe.replace(**changes)):
        trained = network()
        result = train_network(trained, data, each, tested, lambda epoch: rng(7, "evaluate", 0, epoch))
        results.append((result, [part.tolist() for part in trained.parameters()]))
    assert results[0] == results[1]


def test_batches_by_size_need_no_order() -> None:
    pairs = ((1, 10), (10, 50), (50, 100))
    for ipc, batch in ((1, 10), (9, 10), (10, 50), (49, 50), (50, 100), (500, 100)):
        for given in (pairs, pairs[::-1]):
            recipe = MTT_PROTOCOL.replace(batches=given)
            assert recipe.for_set(ipc, 10).batch == batch
            assert recipe.for_set(ipc, 100).batch == 2 * batch
            assert "batch" in recipe.unread()


def test_batches_by_size_are_typed_as_pairs_and_saved_so(tmp_path: Path) -> None:
    pairs, saved = ("--evaluation.recipe.batches", "1:10", "10:50"), tmp_path / "saved.yaml"
    for words in (["digits-ipc1", *pairs, "--save-config", str(saved)], ["--config", str(saved)]):
        assert parse("run", words).experiment.evaluation.recipe.batches == ((1, 10), (10, 50))
    for wrong in ("1", "1:x", "1:2:3", "0:4"):
        with pytest.raises(InputError, match=r"--evaluation\.recipe\.batches cannot be"):
            parse("run", ["digits-ipc1", pairs[0], wrong])


def test_the_protocol_is_that_of_the_paper() -> None:
    recipe = protocol("rat")
    assert (recipe.steps, recipe.networks, recipe.optimiser, recipe.lr) == ((300, 600, 1000, 3000), 8, "adam", 1e-3)
    assert (recipe.weight_decay, recipe.momentum, recipe.reported) == (0.0, 0.9, "best")
    assert recipe.for_images(100).passes == 3000
    assert recipe.for_images(2000).passes == 150
    assert recipe.for_images(1010).passes == 273
    assert recipe.for_images(1010).decays_at > 273
    assert MTT_PROTOCOL.for_images(10) is MTT_PROTOCOL


def test_recipes_of_earlier_versions_are_written_as_they_were() -> None:
    assert not {"steps", "optimiser", "networks"} & MTT_PROTOCOL.to_json().keys()
    assert EvalRecipe.model_validate(RAT_PROTOCOL.to_json()) == RAT_PROTOCOL


def test_steps_out_of_order_are_refused() -> None:
    with pytest.raises(InputError, match="given as 5, 2, 5; give each once, in ascending order: 2, 5"):
        FEW.replace(steps=(5, 2, 5))


def test_the_table_names_every_budget_and_the_maximum(tmp_path: Path) -> None:
    data = blobs()
    made: SyntheticSet = random_real(data, 2, 0)
    wanted: dict[str, Any] = {
        "model": "convnet-d1-w4",
        "seeds": 2,
        "baselines": ("random",),
        "out": tmp_path,
        "workers": 1,
    }
    scores = evaluate_all(made, data, FEW, **wanted)
    shown = table(scores)
    names = [column.name for column in shown.columns]
    assert names == ["trained on", "2 steps", "5 steps", "7 steps", "maximum on test", "n"]
    assert [column.name for column in shown.columns if column.bold] == ["maximum on test"]
    assert "7 steps of Adam" in shown.caption
    assert "reported: the maximum after 2, 5 or 7 steps, chosen on the test images" in shown.caption
    entry = scores.architecture["convnet-d1-w4"]
    assert len(entry.by_steps) == 2
    assert entry.mean == pytest.approx(sum(map(max, entry.by_steps)) / 2)
    assert Scores.read(tmp_path) == scores
    assert evaluate_all(made, data, FEW, **wanted) == scores  # from the cache
