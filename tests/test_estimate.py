"""The estimate before a run, against what the run then took on disk and held in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from astdistill.data import loading
from astdistill.data.loading import load_dataset
from astdistill.experiment import cost as estimate
from astdistill.experiment import probe
from astdistill.experiment.config import Experiment
from astdistill.experiment.cost import facts
from astdistill.experiment.pipeline import obtain_experts
from astdistill.experiment.presets import PRESETS
from astdistill.experiment.probe import NAMED, Facts, Probe
from astdistill.models.flat import FlatModel
from astdistill.runtime.status import duration, size


def small(tmp_path: Path, dtype: str = "float32") -> Experiment:
    preset = PRESETS["digits-ipc1"].replace(model="convnet-d2-w64")
    experts = preset.experts.replace(count=2, store=tmp_path / "experts", dtype=dtype)
    return preset.replace(experts=experts, method=preset.method.replace(expert=preset.method.recipe.replace(epochs=3)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_disk_of_experts_is_what_they_take(dtype: str, tmp_path: Path) -> None:
    experiment = small(tmp_path, dtype)
    told = estimate.estimate(experiment)[0].disk
    store = obtain_experts(experiment, load_dataset("digits"))
    taken = sum(store.path(expert).stat().st_size for expert in store.experts())
    assert told == pytest.approx(taken, rel=0.05)


def test_named_sets_are_known_as_they_are() -> None:
    dataset = load_dataset("digits")
    assert NAMED["digits"] == Facts(dataset.shape, len(dataset.classes), len(dataset.train), len(dataset.test))


def test_subsets_are_counted() -> None:
    cell = PRESETS["cifar100-ten-ipc10"]
    assert facts(cell) == Facts((3, 32, 32), 10, 5000, 1000)
    assert facts(cell.replace(data=cell.data.replace(per_class=100, validation=0.1))).train == 900


def test_memory_and_time_grow_with_the_work() -> None:
    cell = PRESETS["cifar100-ten-ipc10"].replace(model="convnet-d3-w8")
    longer = cell.replace(distill=cell.distill.replace(inner_steps=40), experts=cell.experts.replace(count=50))
    few, many = estimate.estimate(cell), estimate.estimate(longer)
    assert many[0].disk == 10 * few[0].disk
    assert many[0].seconds > 3 * few[0].seconds
    assert many[1].seconds > 1.5 * few[1].seconds
    # The walk keeps P floats a step, so thirty more steps cost so much and no more.
    assert many[1].memory - few[1].memory == pytest.approx(30 * 4 * Probe(cell, facts(cell)).parameters, rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "0.5 s"), (42, "42 s"), (600, "10 min"), (7200, "2.0 h"), (400000, "4.6 days")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(12, "12 B"), (65_000_000, "65 MB"), (6.5e9, "6.5 GB"), (2e12, "2.0 TB")])
def test_sizes_read_well(count: float, text: str) -> None:
    assert size(count) == text


def test_textures_cost_their_crops_in_time_and_their_canvases_on_disk() -> None:
    cell = PRESETS["cifar100-ten-ipc10"].replace(model="convnet-d3-w8")
    images, textures = (
        estimate.estimate(cell.replace(distill=cell.distill.replace(**each)))
        for each in ({}, {"canvas": 2, "canvas_samples": 6})
    )
    assert textures[1].disk == 4 * images[1].disk
    assert textures[1].seconds > 2 * images[1].seconds


def test_a_whitening_is_a_stage_and_is_not_fitted_to_estimate_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "fit_zca", None)
    plain = PRESETS["digits-ipc1"].replace(model="convnet-d2-w8")
    plain = plain.replace(data=plain.data.replace(size=16))
    white = plain.replace(data=plain.data.replace(whiten="zca"))
    names = [[stage.name for stage in estimate.estimate(each)] for each in (plain, white)]
    assert names[1] == ["ZCA whitening, once for all runs", *names[0]]
    stage = estimate.estimate(white)[0]
    assert stage.disk == 4 * 256**2
    assert stage.memory > 4 * 8 * 256**2
    assert stage.seconds > 0


def test_memory_goes_by_where_the_images_are_kept() -> None:
    known, data = Facts((3, 32, 32), 10, 50000, 10000), PRESETS["cifar10-ipc10"].data.replace(whiten="standard")
    held = {kind: known.held(data.replace(memory=kind), "cpu") for kind in ("float32", "uint8", "disk")}
    assert held == {"float32": 60000 * 3072 * 4, "uint8": 60000 * 3072, "disk": 0}
    assert known.held(data.replace(memory="disk", whiten="zca"), "cpu") == 2 * 4 * 3072**2


def test_a_probe_runs_no_step_oftener_than_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    """What weighs a step is its warm-up; a long one is timed once."""
    experiment, seconds = PRESETS["digits-ipc1"], 0.2
    ran: list[int] = []

    def unroll(
        self: Probe, experiment: Experiment, model: FlatModel, steps: int, batch: int, strategy: str
    ) -> Callable[[], None]:
        return lambda: ran.append(steps)

    monkeypatch.setattr(Probe, "_unroll", unroll)
    monkeypatch.setattr(probe.time, "perf_counter", lambda: seconds * len(ran))
    for seconds, expected in ((0.2, [1, 2, 2, 2]), (1.5, [1, 2, 2])):
        ran.clear()
        taken, _ = Probe(experiment, facts(experiment)).outer_step(experiment)
        assert ran == expected
        assert taken == pytest.approx(seconds * experiment.distill.inner_steps / 2)
