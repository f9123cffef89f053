"""How many workers an experiment has: asked for once, heard by every stage that has several jobs, and no part of what a
run is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from problems import blobs
from pydantic import ValidationError

from astdistill.autodiff.dispatch import chosen, using
from astdistill.cli.options import parse
from astdistill.experiment import pipeline as stages
from astdistill.experiment.presets import preset
from astdistill.runtime.errors import InputError
from astdistill.runtime.run_dir import RunDir


def test_workers_are_a_flag_and_automatic_without_it() -> None:
    assert parse("run", ["digits-ipc1"]).experiment.workers is None
    assert parse("run", ["digits-ipc1", "--workers", "2"]).experiment.workers == 2
    with pytest.raises(ValidationError, match="workers"):
        preset("digits-ipc1").replace(workers=0)


def test_both_stages_hear_of_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    heard: dict[str, Any] = {}

    class Heard(Exception):
        pass

    def note(name: str) -> Any:
        def stage(*_: object, workers: int | None, **__: object) -> None:
            heard[name] = workers
            raise Heard

        return stage

    monkeypatch.setattr(stages, "train_experts", note("experts"))
    monkeypatch.setattr(stages, "evaluate_all", note("evaluation"))
    wanted = preset("digits-ipc1").replace(workers=3)
    with pytest.raises(Heard):
        stages.obtain_experts(wanted, blobs())
    with pytest.raises(Heard):
        stages.obtain_scores(wanted, blobs(), None, tmp_path)  # pyright: ignore[reportArgumentType]
    assert heard == {"experts": 3, "evaluation": 3}


def test_a_run_goes_on_with_other_workers_and_memory(tmp_path: Path) -> None:
    cell = preset("digits-ipc1")
    for workers in (None, 1, 4):
        RunDir(tmp_path / "run").claim(cell.replace(workers=workers).to_json(), "data", "cpu")
    for kind in ("disk", "uint8", "float32"):
        RunDir(tmp_path / "run").claim(cell.replace(data=cell.data.replace(memory=kind)).to_json(), "data", "cpu")
    before = cell.to_json()
    del before["workers"], before["data"]["memory"]
    RunDir(tmp_path / "run").claim(before, "data", "cpu")
    with pytest.raises(InputError, match="other settings"):
        RunDir(tmp_path / "run").claim(cell.replace(seed=cell.seed + 1).to_json(), "data", "cpu")


def test_the_engine_is_chosen_for_its_run_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    heard: list[str] = []

    def note(*_: object, **__: object) -> Any:
        heard.append(chosen())
        raise RuntimeError

    for name in ("train_experts", "evaluate_all", "distill"):
        monkeypatch.setattr(stages, name, note)
    wanted = parse("run", ["digits-ipc1", "--engine", "eager"]).experiment
    for run in (
        lambda: stages.obtain_experts(wanted, blobs()),
        lambda: stages.obtain_scores(wanted, blobs(), None, tmp_path),  # pyright: ignore[reportArgumentType]
        lambda: stages.obtain_synthetic(wanted, blobs(), None, tmp_path),  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(RuntimeError):
            run()
    assert heard == ["eager"] * 3
    assert chosen() == "auto"
    monkeypatch.setenv("ASTDISTILL_ENGINE", "compiled")
    with using("auto"):
        assert chosen() == "compiled"
    with using("eager"):
        assert chosen() == "eager"
    assert chosen() == "compiled"
