"""How many workers an experiment has: asked for once, heard by every stage that has several jobs, and no part of what a
run is."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from problems import blobs
from pydantic import ValidationError
from short_methods import MTT, with_numbers

from astdistill.autodiff.dispatch import chosen, using
from astdistill.cli.options import parse
from astdistill.distillation import DistillSettings, distill
from astdistill.evaluation import MTT_PROTOCOL, evaluate
from astdistill.experiment import pipeline as stages
from astdistill.experiment.config import Experiment
from astdistill.experiment.presets import preset
from astdistill.experts import ExpertRecipe, train_experts
from astdistill.methods.distribution_matching import DM
from astdistill.methods.outer_step import TrajectoryMatching
from astdistill.runtime.errors import InputError
from astdistill.runtime.parallel import WorkerPlan, pool
from astdistill.runtime.progress import bar
from astdistill.runtime.run_dir import RunDir


def test_workers_are_a_flag_and_automatic_without_it() -> None:
    assert parse("run", ["digits-ipc1"]).experiment.workers is None
    assert parse("run", ["digits-ipc1", "--workers", "2"]).experiment.workers == 2
    with pytest.raises(InputError, match="workers cannot be 0; choose 1 or more"):
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
    with using("eager"), using(None):
        assert chosen() == "eager"
        assert os.environ["ASTDISTILL_ENGINE"] == "compiled", "what processes that are started inherit is left alone"
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(chosen).result() == "compiled", "another thread of the process was told, too"
    assert chosen() == "compiled"
    with pytest.raises(InputError, match="Did you mean 'eager'"), using("eagr"):
        pass
    assert chosen() == "compiled"


def test_engine_device_and_threads_are_arguments_and_are_put_back(tmp_path: Path) -> None:
    data, before = blobs(count=6, shape=(1, 8, 8)), torch.get_num_threads()
    heard: list[tuple[str, int]] = []
    how: dict[str, Any] = {"engine": "eager", "device": "cpu", "threads": before + 1}
    experts = train_experts(
        data, model="convnet-d1-w4", recipe=ExpertRecipe(epochs=2), count=1, store=tmp_path, workers=1, **how
    )
    settings, method = DistillSettings(iterations=1), with_numbers(MTT, syn_steps=1, expert_epochs=1, max_start_epoch=1)

    def note(*_: object) -> None:
        heard.append((chosen(), torch.get_num_threads()))

    made = distill(data, experts, method=method, settings=settings, observers=[note], **how)
    evaluate(made, data, recipe=MTT_PROTOCOL.replace(epochs=1), seeds=1, on_result=note, workers=1, **how)
    assert heard == [("eager", before + 1)] * 2
    assert (chosen(), torch.get_num_threads()) == ("auto", before)
    for wrong, sentence in (
        ({"engine": "eagr"}, "Did you mean 'eager'"),
        ({"device": "tpu"}, "is not a device"),
        ({"threads": 0}, "0 threads were asked for"),
    ):
        for call in (
            lambda wrong: train_experts(data, store=tmp_path, **wrong),
            lambda wrong: distill(data, experts, settings=settings, **wrong),
            lambda wrong: evaluate(made, data, **wrong),
        ):
            with pytest.raises(InputError, match=sentence):
                call(wrong)
    assert (chosen(), torch.get_num_threads()) == ("auto", before)


def test_a_worker_is_told_its_engine_as_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASTDISTILL_ENGINE", raising=False)
    with (
        using("eager"),
        bar("work", 2, 0) as progress,
        pool(jobs.engine, chosen(), WorkerPlan(2, 1, requested=True), progress, 2, 0.0) as work,
    ):
        assert [found for _, found in work([0, 1])] == [("eager", None)] * 2


def test_numbers_that_belong_to_the_step_are_refused_among_the_settings_with_their_place() -> None:
    place = r"'inner_steps'; give method\.replace\(step=TrajectoryMatching\(syn_steps=\.\.\.\)\) in its place"
    with pytest.raises(ValidationError, match=f"DistillSettings no longer has {place}"):
        DistillSettings.model_validate({"inner_steps": 5})
    with pytest.raises(InputError, match=f"DistillSettings no longer has {place}"):
        DistillSettings().replace(inner_steps=5)


def test_numbers_that_every_run_had_go_to_the_step_or_nowhere() -> None:
    old = {"inner_steps": 5, "matched_epochs": 1, "max_start_epoch": 3, "batch_syn": 2, "trajectories": 2}
    numbers = {"syn_steps": 5, "expert_epochs": 1, "max_start_epoch": 3, "batch_syn": 2, "trajectories": 2}
    step = TrajectoryMatching.model_validate(numbers)
    written = {"name": "x", "distill": old | {"lr_img": 3.0}}
    for method in ({}, {"method": MTT}, {"method": {"name": "mtt", "paper": ""}}):
        found = Experiment.model_validate(written | method)
        assert (found.method.step, found.distill.lr_img) == (step, 3.0)
    for method in (DM, DM.to_json()):
        found = Experiment.model_validate(written | {"method": method})
        assert (found.method, found.distill.lr_img) == (DM, 3.0)
    with pytest.raises(
        ValidationError, match=r"'distill\.inner_steps' is now called 'method\.step\.syn_steps', and both"
    ):
        Experiment.model_validate(written | {"method": MTT.to_json()})
