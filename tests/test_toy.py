"""The example in the plane stands alone, repeats, and its distilled points beat real ones."""

from __future__ import annotations

import importlib
import runpy
import statistics
import sys
from pathlib import Path

import pytest
import torch
from matplotlib import image

EXAMPLE = Path(__file__).parents[1] / "examples" / "toy_2d.py"
toy_2d = importlib.import_module(EXAMPLE.stem)
pytestmark = pytest.mark.drawn


def test_it_needs_nothing_of_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "astdistill", None)  # an import of it fails
    alone = runpy.run_path(str(EXAMPLE))
    assert callable(alone["run"])
    assert callable(alone["draw"])


def test_the_gradient_of_a_stack_is_that_of_each_network_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    points, labels = toy_2d.spirals(9, generator)
    theta = toy_2d.fresh(3, generator)
    together = toy_2d.gradient(theta.clone(), points, labels.expand(3, -1))
    for number in range(3):
        w1, b1, w2, b2, w3, b3 = (
            part.view(shape)
            for part, shape in zip(theta[number].split([a * b for a, b in toy_2d.SHAPES]), toy_2d.SHAPES, strict=True)
        )
        leaves = [part.clone().requires_grad_() for part in (w1, b1, w2, b2, w3, b3)]
        hidden = torch.nn.functional.linear(points, leaves[0], leaves[1][0]).tanh()
        hidden = torch.nn.functional.linear(hidden, leaves[2], leaves[3][0]).tanh()
        logits = torch.nn.functional.linear(hidden, leaves[4], leaves[5][0])
        alone = torch.autograd.grad(-logits.log_softmax(1)[range(9), labels].mean(), leaves)
        torch.testing.assert_close(together[number], torch.cat([part.flatten() for part in alone]))


def test_the_same_seed_gives_the_same_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("EPOCHS", 4), ("STARTS", 2), ("NETWORKS", 2), ("TRAINED", 2), ("INNER_STEPS", 3)):
        monkeypatch.setattr(toy_2d, name, value)
    first, second, other = toy_2d.run(2, 0), toy_2d.run(2, 0), toy_2d.run(2, 1)
    assert torch.equal(first.distilled, second.distilled)
    assert first.accuracies == second.accuracies
    assert not torch.equal(first.distilled, first.real)
    assert not torch.equal(first.distilled, other.distilled)
    toy_2d.draw(first, tmp_path / "few-steps.png")
    assert (tmp_path / "few-steps.png").stat().st_size > 10_000


@pytest.mark.slow
def test_distilled_points_beat_random_ones_and_the_picture_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("TRAINED", 100), ("NETWORKS", 10)):
        monkeypatch.setattr(toy_2d, name, value)
    found = toy_2d.run(steps=50)
    means = {name: statistics.mean(values) for name, values in found.accuracies.items()}
    assert len(found.accuracies["random"]) == len(found.accuracies["distilled"]) == 10
    assert means["distilled"] > means["random"] + 10
    assert means["all"] > 98
    assert statistics.mean(found.losses[-10:]) < 0.8 * statistics.mean(found.losses[:10])
    toy_2d.draw(found, str(tmp_path / "toy.png"))
    assert image.imread(tmp_path / "toy.png").std() > 0.05
