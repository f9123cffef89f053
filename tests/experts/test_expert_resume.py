"""A killed training, started again, ends with the rows of one that was never killed."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from killing import Killed, killed, killed_at_write
from problems import TINY, blobs, same_store, tiny_experts

from astdistill.data.dataset import Dataset
from astdistill.experts.recipe import ExpertRecipe
from astdistill.experts.store import TrajectoryStore
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import read_lines

AST_LIKE = ExpertRecipe(
    epochs=7,
    batch=24,
    lr=0.05,
    momentum=0.9,
    weight_decay=1e-3,
    lr_drop=0.6,
    loss_warmup_epochs=4,
    penalty=0.5,
    max_grad_norm=0.5,
)
ADAM = ExpertRecipe(epochs=4, batch=24, lr=0.01, optimiser="adam", weight_decay=1e-3, lr_drop=0.5)
PLAIN = ExpertRecipe(epochs=3, batch=24, lr=0.05)
RECIPES = {"ast": AST_LIKE, "adam": ADAM, "plain": PLAIN}

JOB = """
from pathlib import Path
import torch
from problems import blobs, tiny_experts
from astdistill.experts import ExpertRecipe
from astdistill.runtime.progress import be_quiet
from astdistill.runtime.files import read_lines
torch.set_num_threads(1)
be_quiet(True)
OUT = Path({out!r})
def run():
    tiny_experts(OUT, blobs(), count=3, recipe=ExpertRecipe.model_validate({recipe!r}))
def progress():
    return sum(len(read_lines(path)) for path in OUT.glob("*/log.jsonl"))
"""


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return blobs()


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_resume_from_every_single_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Dataset, recipe: ExpertRecipe
) -> None:
    """One life per write: each comes one write further than the last, so every gap between two writes is met once."""
    whole = tiny_experts(tmp_path / "whole", dataset, recipe=recipe)
    lives, folder = 0, tmp_path / "cut"
    for number in range(200):
        try:
            # A life repeats at most the two flushes of a cut epoch (row, then state), so three let it come one further.
            with killed_at_write(monkeypatch, 2 + number % 2):
                found = tiny_experts(folder, dataset, recipe=recipe)
            break
        except Killed:
            lives += 1
    else:
        pytest.fail("the training never came to its end")
    assert lives > recipe.epochs
    assert same_store(found, whole)
    assert sorted(path.name for path in found.folder.iterdir()) == sorted(path.name for path in whole.folder.iterdir())


@pytest.mark.slow
def test_sigkill_at_many_moments(tmp_path: Path, dataset: Dataset) -> None:
    recipe = AST_LIKE.replace(epochs=10)
    script = tmp_path / "job.py"
    script.write_text(JOB.format(out=str(tmp_path / "cut"), recipe=recipe.to_json()))
    moments = killed(script, kills=8, seed=0)
    assert len(moments) >= 4
    assert len(set(moments)) >= 3
    whole = tiny_experts(tmp_path / "whole", dataset, count=3, recipe=recipe)
    (folder,) = (tmp_path / "cut").iterdir()
    assert same_store(TrajectoryStore.open(folder), whole)
    assert not list(folder.glob("*.partial"))


def cut(folder: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, flushes: int = 9) -> Path:
    """A training of one expert that was stopped after some epochs; its partial folder."""
    with pytest.raises(Killed), killed_at_write(monkeypatch, flushes):
        tiny_experts(folder, dataset, count=1, recipe=AST_LIKE)
    (partial,) = folder.glob("*/000.partial")
    return partial


@pytest.mark.parametrize("garbage", [1, 1000])
def test_rows_ahead_of_the_state_are_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Dataset, garbage: int
) -> None:
    partial = cut(tmp_path / "cut", dataset, monkeypatch)
    with (partial / "rows.bin").open("ab") as file:
        file.write(random.Random(0).randbytes(garbage))
    found = tiny_experts(tmp_path / "cut", dataset, count=1, recipe=AST_LIKE)
    assert same_store(found, tiny_experts(tmp_path / "whole", dataset, count=1, recipe=AST_LIKE))


@pytest.mark.parametrize("lost", ["some bytes", "a row", "all", "the file"])
def test_rows_behind_the_state_start_the_expert_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Dataset, lost: str
) -> None:
    """Never a trajectory with a row of zeros in it."""
    rows = cut(tmp_path / "cut", dataset, monkeypatch) / "rows.bin"
    if lost == "the file":
        rows.unlink()
    else:
        os.truncate(rows, {"some bytes": rows.stat().st_size * 2 // 3, "a row": 4 * 100, "all": 0}[lost])
    found = tiny_experts(tmp_path / "cut", dataset, count=1, recipe=AST_LIKE)
    assert same_store(found, tiny_experts(tmp_path / "whole", dataset, count=1, recipe=AST_LIKE))


def test_rows_that_are_a_link_change_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Dataset
) -> None:
    """A store from elsewhere may name any file of its new owner so."""
    rows = cut(tmp_path / "cut", dataset, monkeypatch) / "rows.bin"
    other = rows.replace(tmp_path / "other")
    with other.open("ab") as file:
        file.write(b"more")
    held = other.read_bytes()
    rows.symlink_to(other)
    found = tiny_experts(tmp_path / "cut", dataset, count=1, recipe=AST_LIKE)
    assert other.read_bytes() == held
    assert same_store(found, tiny_experts(tmp_path / "whole", dataset, count=1, recipe=AST_LIKE))


def test_a_broken_state_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Dataset) -> None:
    state = cut(tmp_path / "cut", dataset, monkeypatch) / "state.safetensors"
    os.truncate(state, state.stat().st_size // 2)
    with pytest.raises(
        InputError,
        match=r"000\.partial/state\.safetensors is not a whole safetensors file .*; name another, or move it away",
    ):
        tiny_experts(tmp_path / "cut", dataset, count=1, recipe=AST_LIKE)
    state.unlink()
    found = tiny_experts(tmp_path / "cut", dataset, count=1, recipe=AST_LIKE)
    assert same_store(found, tiny_experts(tmp_path / "whole", dataset, count=1, recipe=AST_LIKE))


def test_what_a_kill_left_of_a_finished_expert_is_swept_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Dataset
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda folder, ignore_errors=False: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            tiny_experts(tmp_path, dataset, count=1)
    (folder,) = tmp_path.iterdir()
    assert (folder / "000.partial").exists()
    assert (folder / "000.safetensors").exists()
    tiny_experts(tmp_path, dataset, count=1)
    assert not (folder / "000.partial").exists()


def test_a_missing_expert_is_trained_again_to_the_same_rows(tmp_path: Path, dataset: Dataset) -> None:
    store = tiny_experts(tmp_path, dataset, count=3)
    rows = store.rows(1, 0, 7).clone()
    before = store.path(2).stat().st_mtime_ns
    store.path(1).unlink()
    again = tiny_experts(tmp_path, dataset, count=3)
    assert torch.equal(again.rows(1, 0, 7), rows)
    assert again.path(2).stat().st_mtime_ns == before


def test_the_log_has_every_epoch_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Dataset) -> None:
    partial = cut(tmp_path, dataset, monkeypatch)
    tiny_experts(tmp_path, dataset, count=1, recipe=AST_LIKE)
    assert [line["epoch"] for line in read_lines(partial.parent / "log.jsonl")] == list(range(7))
    assert TINY in (partial.parent / "recipe.json").read_text()
