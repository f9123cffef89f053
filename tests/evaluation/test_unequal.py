"""Unequal tested classes: balanced accuracy beside accuracy, and the majority class as a row; otherwise neither."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from astdistill.data.dataset import Dataset
from astdistill.data.synthetic import SyntheticSet
from astdistill.evaluation.protocol import MTT_PROTOCOL
from astdistill.evaluation.runner import evaluate, evaluate_all
from astdistill.evaluation.scores import MAJORITY_NAME, Scores, table

RECIPE = MTT_PROTOCOL.replace(epochs=3, full_epochs=1)


def unequal(dataset: Dataset, kept: int = 4) -> Dataset:
    """The set with few test images of class 1, and class 0 with a training image more than the others."""
    rows = torch.cat([dataset.test.of_class(label)[: None if label != 1 else kept] for label in range(3)])
    more = torch.cat([torch.arange(len(dataset.train)), dataset.train.of_class(0)[:1]])
    return replace(dataset, test=dataset.test.select(rows), train=dataset.train.select(more))


def scores(dataset: Dataset, distil: Callable[..., SyntheticSet], out: Path | None = None) -> Scores:
    return evaluate_all(distil(dataset, 2), dataset, RECIPE, "convnet-d1-w4", 2, ("random",), out, seed=0, workers=1)


def test_balanced_accuracy_is_the_mean_over_classes_and_the_majority_is_a_row(
    blobs: Dataset, distil: Callable[..., SyntheticSet], tmp_path: Path
) -> None:
    dataset = unequal(blobs)
    found = scores(dataset, distil, tmp_path)
    for entry in (*found.architecture.values(), *found.baselines.values()):
        assert entry.balanced is not None
        for balanced, recalls in zip(entry.balanced, entry.by_class, strict=True):
            assert recalls is not None
            assert balanced == pytest.approx(statistics.fmean(each for each in recalls if each is not None))
    sizes = torch.bincount(dataset.test.labels)
    assert found.majority is not None
    assert found.majority.mean == pytest.approx(100 * float(sizes[0] / sizes.sum()))
    assert found.majority.balanced == (pytest.approx(100 / len(dataset.classes)),)
    shown = table(found)
    assert [column.name for column in shown.columns] == ["trained on", "final", "balanced", "n"]
    assert shown.rows[-1][0] == MAJORITY_NAME
    assert shown.rows[-1][1] == f"{found.majority.mean:.1f}"
    assert "mean of the final accuracies by class" in shown.caption
    assert "n = 2 fresh networks" in shown.caption
    assert Scores.read(tmp_path) == found
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["majority"]["balanced"] == list(found.majority.balanced or ())
    assert written["architecture"]["convnet-d1-w4"]["balanced"]


def test_a_class_without_test_images_counts_in_no_mean(blobs: Dataset, distil: Callable[..., SyntheticSet]) -> None:
    found = scores(unequal(blobs, 0), distil)
    assert found.majority is not None
    assert found.majority.balanced == (pytest.approx(100 / (len(blobs.classes) - 1)),)


def test_equal_classes_have_the_tables_and_files_of_before(
    blobs: Dataset, distil: Callable[..., SyntheticSet], tmp_path: Path
) -> None:
    found = scores(blobs, distil, tmp_path)
    text = (tmp_path / "scores.json").read_text()
    assert "balanced" not in text
    assert "majority" not in text
    assert [column.name for column in table(found).columns] == ["trained on", "final", "n"]
    assert len(table(found).rows) == 2


def test_single_evaluations_have_them_too(blobs: Dataset, distil: Callable[..., SyntheticSet]) -> None:
    dataset = unequal(blobs)
    found = evaluate(distil(dataset, 1), dataset, recipe=RECIPE, model="convnet-d1-w4", seeds=1, workers=1)
    assert found.majority is not None
    assert next(iter(found.architecture.values())).balanced is not None
