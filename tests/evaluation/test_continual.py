"""Class-incremental learning, against the obvious way: a data set cut to the classes seen, and a network trained on it
by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from astdistill.autodiff.training import accuracy
from astdistill.data.dataset import Dataset, Split
from astdistill.data.synthetic import SyntheticSet
from astdistill.evaluation import runner as evaluation
from astdistill.evaluation.continual import arrived, continual, continual_table, of_classes
from astdistill.evaluation.protocol import EvalRecipe
from astdistill.evaluation.runner import evaluate_all
from astdistill.evaluation.training import NetworkResult, TensorExamples, train_network
from astdistill.models.registry import build_model
from astdistill.runtime.errors import InputError
from astdistill.runtime.seeds import derive, rng

RECIPE = EvalRecipe(name="short", epochs=6, full_epochs=1)
MODEL = "convnet-d1-w8"
Distil = Callable[..., SyntheticSet]


@pytest.fixture
def hard(blobs: Dataset) -> Dataset:
    """Test images that no network gets all right, unequally many of each class."""
    noise = 1.5 * torch.randn(blobs.test.images.shape, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([row for row, label in enumerate(blobs.test.labels.tolist()) if label != 1 or row < 30])
    return replace(blobs, test=Split((blobs.test.whole() + noise)[rows], blobs.test.labels[rows]))


def by_hand(found: SyntheticSet, dataset: Dataset, labels: list[int], k: int, seed: int) -> float:
    """Train network k on the images of `labels` alone and test it on their test images alone."""
    rows = torch.tensor([row for row, label in enumerate(found.hard_labels.tolist()) if label in labels])
    network = build_model(MODEL, dataset.shape, 3, seed=derive(seed, "evaluate", k))
    examples = TensorExamples(found.images[rows], found.targets[rows], float(found.lr))
    recipe = RECIPE.augmented(found.augmentation)
    train_network(network, examples, recipe, dataset.test, lambda epoch: rng(seed, "evaluate", k, epoch))
    tests = torch.tensor([label in labels for label in dataset.test.labels.tolist()])
    return accuracy(network, Split(dataset.test.images[tests], dataset.test.labels[tests]))


def test_every_step_equals_training_and_testing_on_the_classes_seen(hard: Dataset, distil: Distil) -> None:
    found = continual(distil(hard), hard, 3, RECIPE, seeds=3, baselines=(), seed=4)
    assert found.seen == (1, 2, 3)
    for step, seen in enumerate(found.seen):
        for k in range(3):
            order = torch.randperm(3, generator=rng(4, "continual", k)).tolist()
            assert found.accuracies["synthetic"][step][k] == pytest.approx(
                by_hand(distil(hard), hard, order[:seen], k, 4)
            )
    assert len({value for step in found.accuracies["synthetic"][1:] for value in step}) > 3


def test_networks_have_orders_of_their_own_that_grow_step_by_step() -> None:
    orders = [arrived(20, 20, 0, k).tolist() for k in range(5)]
    assert len({tuple(order) for order in orders}) == 5
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert arrived(20, 4, 0, 2).tolist() == orders[2][:4]


def test_soft_labels_lose_the_classes_that_have_not_arrived(blobs: Dataset, distil: Distil) -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)) + 5 * distil(blobs).targets
    soft = replace(distil(blobs), labels="soft", targets=logits)
    cut = of_classes(soft, torch.tensor([2, 0]))
    assert cut.hard_labels.tolist() == [0, 0, 2, 2]
    assert torch.equal(cut.images, soft.images[[0, 1, 4, 5]])
    kept = soft.targets[[0, 1, 4, 5]][:, [0, 2]].softmax(dim=1)
    torch.testing.assert_close(cut.probabilities[:, [0, 2]], kept)
    assert cut.probabilities[:, 1].tolist() == [0.0] * 4


def test_soft_memories_train_to_finite_losses(hard: Dataset, distil: Distil) -> None:
    soft = replace(distil(hard), labels="soft", targets=4 * distil(hard).targets)
    found = continual(soft, hard, 2, RECIPE, seeds=2, baselines=())
    assert found.seen == (2, 3)
    assert min(found.accuracies["synthetic"][0]) > 40


def test_baselines_resume_and_the_last_step_is_the_plain_evaluation(
    tmp_path: Path, hard: Dataset, distil: Distil, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: list[int] = []
    real = evaluation.train_network

    def counting(network: torch.nn.Module, examples: TensorExamples, *rest: object) -> NetworkResult:
        images.append(len(examples))
        return real(network, examples, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(evaluation, "train_network", counting)
    scores = evaluate_all(distil(hard), hard, RECIPE, seeds=2, baselines=("random",), out=tmp_path)
    images.clear()
    found = continual(distil(hard), hard, 2, RECIPE, seeds=2, baselines=("random", "full"), out=tmp_path)
    assert images == [4] * 4
    assert list(found.accuracies) == ["synthetic", "random"]
    assert found.accuracies["random"][-1] == scores.baselines["random"].final
    assert found.accuracies["synthetic"][-1] == scores.architecture[MODEL].final
    assert json.loads((tmp_path / "continual.json").read_text())["seen"] == [2, 3]
    images.clear()
    assert continual(distil(hard), hard, 2, RECIPE, seeds=2, baselines=("random", "full"), out=tmp_path) == found
    assert images == []
    table = continual_table(found)
    assert [column.name for column in table.columns] == ["memory", "2 classes", "3 classes"]
    assert [row[0] for row in table.rows] == [f"synthetic, {MODEL}", "random real images"]
    assert "2 images of each class seen" in table.caption


def test_steps_need_classes_and_classes_need_tests(blobs: Dataset, distil: Distil) -> None:
    for steps in (1, 4):
        with pytest.raises(
            InputError, match=f"--continual {steps} was given, but 3 classes can arrive in 2 to 3 steps"
        ):
            continual(distil(blobs), blobs, steps, RECIPE)
    few = replace(blobs, test=blobs.test.select((blobs.test.labels < 2).nonzero().squeeze(1)))
    with pytest.raises(InputError, match="Class 'cat' has no test images"):
        continual(distil(few), few, 2, RECIPE)
