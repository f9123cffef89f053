"""The time left of a training that goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from problems import blobs

from astdistill.experts.recipe import ExpertRecipe
from astdistill.experts.training import train_experts
from astdistill.runtime import progress


def test_the_time_left_is_that_of_the_epochs_of_this_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which every epoch takes a minute: what an earlier call has trained is no part of the pace, nor of what
    is left to do, also of experts that have not begun in this call."""
    now, dataset, step, recipe = [100.0], blobs(), progress.Bar.step, ExpertRecipe(epochs=5)
    seen: list[tuple[int, int | None, float | None]] = []

    def slow(bar: progress.Bar, units: int = 1, note: str = "") -> None:
        now[0] += 60
        step(bar, units, note)
        status = bar.status()
        seen.append((status.done, status.total, status.seconds_left))

    train_experts(dataset, model="convnet-d1-w4", recipe=recipe, count=2, store=tmp_path, stop_after=3, workers=1)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.Bar, "step", slow)
    train_experts(dataset, model="convnet-d1-w4", recipe=recipe, count=2, store=tmp_path, workers=1)
    assert seen == [(7, 10, 180.0), (8, 10, 120.0), (9, 10, 60.0), (10, 10, 0.0)]
