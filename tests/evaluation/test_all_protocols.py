"""RDED's protocol, whose labels a teacher gives while networks train; and one table of a set under all protocols."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from problems import TINY
from torch.nn.functional import kl_div, log_softmax, softmax

from astdistill.cli.main import main
from astdistill.data.augmentation import apply, cut_and_mixed, draw
from astdistill.data.dataset import Dataset
from astdistill.evaluation.across import across_protocols
from astdistill.evaluation.protocol import ALL, MTT_PROTOCOL, PROTOCOLS, RDED_PROTOCOL, TGDD_PROTOCOL
from astdistill.evaluation.rows import random_real
from astdistill.evaluation.runner import evaluate_all
from astdistill.evaluation.scores import Scores, caption
from astdistill.evaluation.teacher import Teacher
from astdistill.evaluation.training import TensorExamples, train_network
from astdistill.experts.recipe import ExpertRecipe
from astdistill.experts.training import train_experts
from astdistill.models.registry import build_model
from astdistill.runtime.errors import InputError
from astdistill.runtime.seeds import rng


@pytest.fixture
def teacher(blobs: Dataset, tmp_path: Path) -> Teacher:
    return Teacher.of(
        train_experts(blobs, model=TINY, recipe=ExpertRecipe(epochs=2), count=1, store=tmp_path / "store")
    )


def test_students_minimise_the_divergence_from_the_teacher(teacher: Teacher, blobs: Dataset) -> None:
    """Every step written out: cutmix, the teacher on what the student sees, KL at temperature 20, AdamW, the cosine."""
    recipe = RDED_PROTOCOL.replace(epochs=4).for_set(1, 3)
    assert recipe.batch == 10
    chosen = random_real(blobs, 5, 0)
    examples = replace(TensorExamples.of(chosen, recipe.lr, chosen.images.device), teacher=teacher.at(20.0))
    trained = build_model(TINY, blobs.shape, 3, seed=1)
    wanted = copy.deepcopy(trained)
    result = train_network(trained, examples, recipe, blobs.test, lambda epoch: rng(7, "epoch", epoch))

    optimiser = torch.optim.AdamW(wanted.parameters(), lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01)
    for epoch in range(4):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * epoch / 8))
        generator = rng(7, "epoch", epoch)
        order = torch.randperm(15, generator=generator)
        for rows in order.split(10):
            images = apply(chosen.images[rows], draw("flip", len(rows), blobs.shape, generator))
            images, _ = cut_and_mixed(images, chosen.targets[rows], 1.0, generator)
            labels = softmax(teacher.labels(images) / 20, dim=1)
            loss = kl_div(log_softmax(wanted(images) / 20, dim=1), labels, reduction="batchmean")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    for found, expected in zip(trained.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
    assert result.best is not None


def test_batches_follow_the_size_of_the_set_and_checks_the_last_fifth() -> None:
    sizes = {(1, 10): 10, (9, 10): 10, (10, 10): 50, (50, 10): 100, (10, 100): 100, (50, 200): 200}
    assert {size: RDED_PROTOCOL.for_set(*size).batch for size in sizes} == sizes
    assert RDED_PROTOCOL.for_set(1, 10).batches == ()
    assert MTT_PROTOCOL.for_set(50, 200) == MTT_PROTOCOL
    assert [epoch for epoch in range(1, 301) if RDED_PROTOCOL.checks_after(epoch)] == [250, 260, 270, 280, 290, 300]
    assert (RDED_PROTOCOL.dropped(0), RDED_PROTOCOL.dropped(150)) == (1.0, pytest.approx(0.5 + math.sqrt(0.125)))
    assert not any(RDED_PROTOCOL.starts_anew(epoch) for epoch in range(300))
    assert {"cosine", "batches", "temperature", "checks_from"}.isdisjoint(TGDD_PROTOCOL.to_json())


def test_without_a_teacher_nothing_is_trained(blobs: Dataset) -> None:
    found = replace(random_real(blobs, 1, 0), model=TINY)
    with pytest.raises(InputError, match="The protocol RDED needs a teacher"):
        evaluate_all(found, blobs, RDED_PROTOCOL, seeds=1, baselines=())
    examples = TensorExamples.of(found, 0.01, found.images.device)
    with pytest.raises(InputError, match="needs a teacher"):
        train_network(build_model(TINY, blobs.shape, 3), examples, RDED_PROTOCOL, blobs.test, lambda epoch: rng(0))


def test_one_table_for_each_kind_of_labels(teacher: Teacher, blobs: Dataset, tmp_path: Path) -> None:
    found = replace(random_real(blobs, 2, 0), model=TINY, method="ast")
    measured = []
    for name in ("mtt", "rded", "tgdd"):
        recipe = PROTOCOLS[name].replace(epochs=2, check_every=2 * (name != "mtt"))
        names = ("random", "teacher") if name == "mtt" else ("random",)
        measured.append(
            evaluate_all(
                found, blobs, recipe, seeds=2, baselines=names, teacher=teacher, out=tmp_path / name, workers=1
            )
        )
    hard, taught = across_protocols(measured)
    assert (hard.title, taught.title) == ("Hard labels", "A teacher's soft labels")
    assert [row[:2] for row in hard.rows] == [
        ("MTT", f"synthetic, {TINY}"), ("MTT", "random real images"),
        ("TGDD", f"synthetic, {TINY}"), ("TGDD", "random real images"),
    ]  # fmt: skip
    assert [row[0] for row in taught.rows] == ["MTT", "RDED", "RDED"]
    heads = [column.name for column in hard.columns]
    assert heads[2:8] == ["labels", "images per slot", "stored", "final", "best", "reported"]
    best, reported = heads.index("best"), heads.index("reported")
    assert [(row[best] == "–", row[reported]) for row in hard.rows] == [
        (True, "final"), (True, "final"), (False, "best"), (False, "best")
    ]  # fmt: skip
    read = Scores.read(tmp_path / "rded")
    assert read == measured[1]
    assert read.are_of(found)
    assert read.online == teacher.at(20.0).info
    assert f"labels of all that networks see by {teacher.at(20.0).info.text}" in caption(read)
    assert "online" not in json.loads((tmp_path / "mtt/scores.json").read_text())


def test_evaluate_all_writes_a_folder_for_each_and_prints_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PROTOCOLS, "rat", PROTOCOLS["rat"].replace(steps=(2, 3), networks=2))
    words = ["run", "digits-ipc1", "--model", "convnet-d1-w4", "--distill.iterations", "1", "--experts.count", "1"]
    words += ["--data.per-class", "10"]
    main([*words, "--evaluation.recipe.epochs", "1", "--evaluation.networks", "1", "--workers", "1", "--out", "made"])
    capsys.readouterr()
    words = ["evaluate", "made", "--protocol", "all", "--epochs", "1", "--networks", "1", "--baselines", "random"]
    main([*words, "--workers", "1", "--out", "every"])
    shown = capsys.readouterr().out
    assert {path.parent.name for path in Path("every").glob("*/scores.json")} == set(ALL)
    assert shown.count("Numbers:") == len(ALL)
    assert "RaT-BPTT" in shown.rsplit("Numbers:", 1)[1]
    for flags, named in {("--ranking",): "--ranking", ("--lr", "search"): "--lr search"}.items():
        assert main([*words, *flags, "--out", "never"]) != 0
        assert f"{named} was given with --protocol all" in capsys.readouterr().err
    assert main(["evaluate", "made", "--protocol", "rded", "--ranking"]) != 0
    assert "--ranking was given" in capsys.readouterr().err
    assert not Path("never").exists()
