"""Experts of a set that stays on disk: the same rows, after a kill too, and never more images in memory than a
batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from killing import Killed, killed_at_write
from PIL import Image
from problems import TINY, TINY_RECIPE, rows_read, same_store

from astdistill.autodiff import training as accuracy
from astdistill.data.dataset import Dataset
from astdistill.data.loading import load_dataset
from astdistill.distillation.loop import distill
from astdistill.distillation.settings import DistillSettings
from astdistill.evaluation.protocol import MTT_PROTOCOL
from astdistill.evaluation.runner import evaluate_all
from astdistill.experts.store import TrajectoryStore
from astdistill.experts.training import train_experts
from astdistill.methods.outer_step import TrajectoryMatching
from astdistill.methods.trajectory_matching import AST

RECIPE = TINY_RECIPE.replace(epochs=5, batch=20)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Three classes of 8×8 pictures, thirty each to learn from and eight to be tested on."""
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for label, name in enumerate("abc"):
        for part, count in (("train", 30), ("test", 8)):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                array = (draw.integers(0, 128, (8, 8, 3)) + 40 * label).astype(np.uint8)
                Image.fromarray(array).save(folder / f"{number:02d}.png")
    return str(tmp_path / "pictures")


def trained(folder: Path, dataset: Dataset) -> TrajectoryStore:
    return train_experts(dataset, model=TINY, recipe=RECIPE, count=2, store=folder)


def test_experts_are_the_same_to_the_last_bit_wherever_the_images_lie(tmp_path: Path, source: str) -> None:
    stores = [trained(tmp_path / kind, load_dataset(source, memory=kind)) for kind in ("float32", "uint8", "disk")]
    assert same_store(stores[0], stores[1])
    assert same_store(stores[0], stores[2])
    before = stores[0].path(1).stat().st_mtime_ns
    again = trained(tmp_path / "float32", load_dataset(source, memory="disk"))
    assert again.folder == stores[0].folder
    assert again.path(1).stat().st_mtime_ns == before


def test_a_killed_training_from_disk_ends_with_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    whole, lives = trained(tmp_path / "whole", load_dataset(source, memory="float32")), 0
    for number in range(60):
        dataset = load_dataset(source, memory="disk")
        try:
            with killed_at_write(monkeypatch, 3 + number % 3):
                found = trained(tmp_path / "cut", dataset)
            break
        except Killed:
            lives += 1
    else:
        pytest.fail("the training never came to its end")
    assert lives > 3
    assert same_store(found, whole)


def test_whitened_batches_from_disk_resume_bit_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    whole = trained(tmp_path / "whole", load_dataset(source, memory="disk", whiten="zca"))
    with pytest.raises(Killed), killed_at_write(monkeypatch, 5):
        trained(tmp_path / "cut", load_dataset(source, memory="disk", whiten="zca"))
    assert same_store(trained(tmp_path / "cut", load_dataset(source, memory="disk", whiten="zca")), whole)


def test_every_stage_reads_batches_and_all_come_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """Experts, distillation from representatives and evaluation with every baseline: no read is larger than one
    class."""
    read = rows_read(monkeypatch)
    monkeypatch.setattr(accuracy, "BATCH", 16)
    step, settings = TrajectoryMatching(syn_steps=2, expert_epochs=1, max_start_epoch=2), DistillSettings(iterations=3)
    results = []
    for kind in ("float32", "disk"):
        dataset = load_dataset(source, memory=kind)
        read.clear()
        experts = trained(tmp_path / kind, dataset)
        largest = max(read, default=0)
        method = AST.replace(expert=RECIPE, step=step)
        synthetic = distill(dataset, experts, method=method, ipc=1, settings=settings)
        recipe = MTT_PROTOCOL.replace(epochs=2, full_epochs=2, batch=16)
        scores = evaluate_all(synthetic, dataset, recipe=recipe, seeds=1)
        results.append((synthetic.images, scores.model_dump(), largest, max(read, default=0)))
    (images, scores, *none), (found, same_scores, in_training, in_all) = results
    assert none == [0, 0]
    assert torch.equal(images, found)
    assert scores == same_scores
    assert in_training == 20
    assert in_all == 30
