"""Experts that stop before their recipe's last epoch: the same rows, and the same expert when it is trained on
later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from problems import TINY, TINY_RECIPE, blobs

import astdistill as ad
from astdistill.distillation.loop import distill
from astdistill.distillation.settings import DistillSettings
from astdistill.experiment.config import Experiment, expert_epochs
from astdistill.experts.store import TrajectoryStore
from astdistill.experts.training import train_experts
from astdistill.methods.tgdd import TGDD
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import load_tensors

# A drop of the rate, momentum and Adam's moments are what a stop must not lose.
RECIPES = {
    "momentum": TINY_RECIPE.replace(epochs=6, momentum=0.9, lr_drop=0.5, loss_warmup_epochs=4),
    "adam": TINY_RECIPE.replace(epochs=6, optimiser="adam", lr=0.001),
}


def train(root: Path, recipe: ad.ExpertRecipe, stop: int | None, count: int = 2, **more: Any) -> TrajectoryStore:
    return train_experts(
        blobs(), model=TINY, recipe=recipe, count=count, store=root, workers=1, stop_after=stop, **more
    )


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_store_extended_later_equals_one_trained_whole(tmp_path: Path, recipe: ad.ExpertRecipe, dtype: str) -> None:
    whole = train(tmp_path / "whole", recipe, None, dtype=dtype)
    short = train(tmp_path / "short", recipe, 2, dtype=dtype)
    assert (short.epochs, whole.epochs) == (2, 6)
    assert short.folder.name == whole.folder.name, "the same store, because rows 0 to 2 are the same"
    assert [short.trained_epochs(k) for k in (0, 1)] == [2, 2]
    for expert in (0, 1):
        assert torch.equal(short.rows(expert, 0, 3), whole.rows(expert, 0, 3))
        assert not (short.folder / f"{expert:03d}.partial" / "rows.bin").exists()
    assert [curve.step_squared for curve in short.curves()] == [curve.step_squared[:2] for curve in whole.curves()]
    longer = train(tmp_path / "short", recipe, 4, dtype=dtype)
    assert torch.equal(longer.rows(1, 0, 5), whole.rows(1, 0, 5))
    done = train(tmp_path / "short", recipe, None, dtype=dtype)
    for expert in (0, 1):
        (rows, header), (expected, described) = load_tensors(done.path(expert)), load_tensors(whole.path(expert))
        assert torch.equal(rows["rows"], expected["rows"])
        assert header == described
        assert not (done.folder / f"{expert:03d}.partial").exists()
    assert done.curves() == whole.curves()


def test_a_shorter_stop_leaves_longer_experts_as_they_are(tmp_path: Path) -> None:
    recipe = RECIPES["momentum"]
    whole = train(tmp_path, recipe, None, count=1)
    before = whole.path(0).stat().st_mtime_ns
    mixed = train(tmp_path, recipe, 3)
    assert whole.path(0).stat().st_mtime_ns == before
    assert (mixed.epochs, [mixed.trained_epochs(k) for k in (0, 1)]) == (3, [6, 3])
    assert [len(curve.step_squared) for curve in mixed.curves()] == [3, 3]
    opened = TrajectoryStore.open(mixed.folder)
    assert opened.epochs == 3, "as many as every expert has"
    assert opened.segment(1, 1, 2).checkpoints.shape[0] == 2
    with pytest.raises(InputError, match=r"Rows 3 to 4 of expert 1 were asked for, but .* holds rows 0 to 3"):
        opened.rows(1, 3, 5)


def test_what_is_lost_of_a_stopped_expert_is_trained_again(tmp_path: Path) -> None:
    """Without its state, and with rows that do not reach it, an expert begins anew, and ends at the same bits."""
    recipe = RECIPES["momentum"]
    whole = train(tmp_path / "whole", recipe, None, count=1)
    for number, spoil in enumerate(("state", "rows")):
        short = train(tmp_path / str(number), recipe, 2, count=1)
        if spoil == "state":
            (short.folder / "000.partial" / "state.safetensors").unlink()
        else:
            short.path(0).unlink()
        again = train(tmp_path / str(number), recipe, None, count=1)
        assert torch.equal(again.rows(0, 0, 7), whole.rows(0, 0, 7))


def test_a_stopped_expert_keeps_full_precision_to_go_on_from(tmp_path: Path) -> None:
    short = train(tmp_path, RECIPES["momentum"], 2, count=1, dtype="bfloat16")
    kept = load_tensors(short.folder / "000.partial" / "state.safetensors")[0]["theta"]
    assert not torch.equal(kept, short.rows(0, 2, 3)[0])
    assert torch.equal(kept.bfloat16().float(), short.rows(0, 2, 3)[0])


@pytest.mark.parametrize("stop", [0, 7])
def test_a_stop_that_cannot_be_is_one_sentence(tmp_path: Path, stop: int) -> None:
    with pytest.raises(
        InputError, match=f"stop after epoch {stop}, but their recipe has 6; choose --experts.stop-after from 1 to 6"
    ):
        train(tmp_path, RECIPES["momentum"], stop)


def cell(method: ad.Method, stop: int | str | None) -> Experiment:
    settings = {"max_start_epoch": 5, "matched_epochs": 2}  # as files of earlier versions have them
    method = method.replace(expert=RECIPES["momentum"].replace(epochs=20))
    return Experiment.model_validate(
        {"name": "x", "method": method, "distill": settings, "experts": {"stop_after": stop}}
    )


@pytest.mark.parametrize(
    ("method", "stop", "epochs"),
    [
        (ad.methods.MTT, "auto", 6),
        (ad.methods.MTT, None, 20),
        (ad.methods.MTT, 9, 9),
        (ad.methods.AST, "auto", 20),
        (ad.methods.AST, 6, 6),
        (ad.methods.AST.without("representative"), "auto", 6),
        (ad.methods.DATM, "auto", 20),
    ],
)
def test_auto_is_the_last_epoch_that_is_read(method: ad.Method, stop: int | str | None, epochs: int) -> None:
    """A start chosen by an expert, and labels it gives, are those of its last epoch: then auto is all of them."""
    assert expert_epochs(cell(method, stop)) == epochs


@pytest.mark.parametrize("stop", [5, 21])
def test_a_stop_below_what_is_read_is_refused(stop: int) -> None:
    with pytest.raises(
        InputError,
        match=f"--experts.stop-after {stop} was given, but this run reads experts up to epoch 6 .* choose 6 to 20",
    ):
        expert_epochs(cell(ad.methods.MTT, stop))


def guided(store: TrajectoryStore, iterations: int, out: Path | None = None, **more: Any) -> ad.SyntheticSet:
    """A run of TGDD, whose steps draw from all epochs that the store has."""
    method = TGDD.replace(expert=store.identity.recipe, step=TGDD.step.replace(batch_real=4))
    settings = DistillSettings(iterations=iterations, lr_img=1.0, outer_momentum=0.0, augmentation="")
    return distill(blobs(), store, method=method, settings=settings, out=out, **more)


def test_a_run_keeps_the_experts_and_epochs_that_it_began_with(tmp_path: Path) -> None:
    """Experts 0 and 2 of four are there, with 2 of 6 epochs, when it begins; the others are trained meanwhile."""
    recipe = RECIPES["momentum"]
    opened = TrajectoryStore.open(train(tmp_path / "whole", recipe, 2, count=4, shard="1/2").folder)
    wanted = guided(opened, 4)
    opened, seen = TrajectoryStore.open(train(tmp_path / "more", recipe, 2, count=4, shard="1/2").folder), []

    def grow(run: Any, state: Any, line: Any) -> None:
        if line["iteration"] == 1:
            train(tmp_path / "more", recipe, None, count=4)
        seen.append((run.experts.experts(), run.experts.epochs))

    found = guided(opened, 4, observers=[grow])
    assert opened.experts() == [0, 1, 2, 3]
    assert seen == 4 * [([0, 2], 2)]
    assert torch.equal(found.images, wanted.images)


def test_a_run_that_reads_experts_to_their_end_is_not_resumed_on_longer_ones(tmp_path: Path) -> None:
    recipe = RECIPES["momentum"]
    guided(train(tmp_path / "experts", recipe, 2), 2, tmp_path / "run")
    guided(train(tmp_path / "experts", recipe, 2), 3, tmp_path / "run")
    with pytest.raises(InputError, match="settings"):
        guided(train(tmp_path / "experts", recipe, None), 4, tmp_path / "run")
