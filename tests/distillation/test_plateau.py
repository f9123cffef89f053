"""Learning rates that are halved on a plateau: as torch's schedule, and to the same bits where a run is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from problems import TINY, blobs, same_set

from astdistill.distillation.loop import distill
from astdistill.distillation.settings import DistillSettings
from astdistill.distillation.state import DistillState
from astdistill.methods.distribution_matching import DM, DistributionMatching
from astdistill.methods.method import Method
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import load_tensors, read_lines, save_tensors
from astdistill.runtime.seeds import rng

SHORT = DM.replace(step=DistributionMatching(batch_real=4))
SETTINGS = DistillSettings(iterations=14, lr_img=1.0, plateau=1, checkpoint_seconds=0.0)


def begun(settings: DistillSettings, method: Method = DM) -> DistillState:
    return DistillState(torch.zeros(3, 1, 4, 4), torch.eye(3), method, settings)


@pytest.mark.parametrize("patience", [1, 3])
def test_rates_are_those_of_torchs_schedule(patience: int) -> None:
    """Losses that fall, stay, fall by too little, and rise."""
    losses = (3 - 2 * torch.rand(60, generator=rng(patience, "losses"), dtype=torch.float64)).tolist()
    losses[10:14] = [losses[9] * (1 - 1e-5 * step) for step in range(4)]
    state = begun(DistillSettings(lr_img=0.8, plateau=patience))
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=patience)
    before, halved = 0.8, 0
    for loss in losses:
        schedule.step(loss)
        said, rate = state.settle(loss), optimiser.param_groups[0]["lr"]
        assert [group["lr"] for group in state.optimiser.param_groups] == [rate]
        assert said == (rate < before)
        halved, before = halved + said, rate
    assert halved > 2


def test_without_a_plateau_nothing_is_counted_or_written(tmp_path: Path) -> None:
    distill(blobs(), None, method=SHORT, model=TINY, settings=SETTINGS.replace(plateau=0, iterations=2), out=tmp_path)
    assert "plateau" not in load_tensors(tmp_path / "state.safetensors")[1]["counters"]
    assert "plateau" not in SETTINGS.replace(plateau=0).to_json()
    assert begun(SETTINGS.replace(plateau=0)).settle(1.0) is False


def test_a_resumed_run_has_the_rates_and_the_bits_of_a_whole_one(tmp_path: Path) -> None:
    whole = distill(blobs(), None, method=SHORT, model=TINY, settings=SETTINGS, out=tmp_path / "whole")
    for iterations in (5, 6, 14):
        settings = SETTINGS.replace(iterations=iterations)
        cut = distill(blobs(), None, method=SHORT, model=TINY, settings=settings, out=tmp_path / "cut")
    assert same_set(cut, whole)
    states = [load_tensors(tmp_path / name / "state.safetensors")[1]["counters"] for name in ("cut", "whole")]
    assert states[0] == states[1]
    halved = [line["iteration"] for line in read_lines(tmp_path / "whole" / "metrics.jsonl") if line.get("halved")]
    assert states[0]["plateau"]["halved"] == len(halved) > 1
    free = distill(blobs(), None, method=SHORT, model=TINY, settings=SETTINGS.replace(plateau=0))
    assert not torch.equal(free.images, whole.images)


def test_a_damaged_count_is_refused(tmp_path: Path) -> None:
    settings = SETTINGS.replace(iterations=3)
    distill(blobs(), None, method=SHORT, model=TINY, settings=settings, out=tmp_path)
    tensors, header = load_tensors(tmp_path / "state.safetensors")
    header["counters"]["plateau"] = {"halved": "often"}
    header.pop("digests", None)
    save_tensors(tmp_path / "state.safetensors", tensors, header)
    with pytest.raises(InputError, match=r"state\.safetensors"):
        distill(blobs(), None, method=SHORT, model=TINY, settings=settings.replace(iterations=4), out=tmp_path)


def test_a_roll_back_undoes_what_the_step_has_counted() -> None:
    state = begun(SETTINGS)
    for loss in (1.0, 1.0, 1.0):
        rate, counted = state.optimiser.param_groups[0]["lr"], dict(state.counters.plateau)
        state.attempt({"images": torch.ones(3, 1, 4, 4)})
        state.keep()
        halved = state.settle(loss)
    assert halved
    state.roll_back()
    assert (state.optimiser.param_groups[0]["lr"], state.counters.plateau) == (rate, counted)
