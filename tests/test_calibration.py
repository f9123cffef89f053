"""Counted work becomes time: rates that are fitted, kept, and near to what the steps themselves take."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from astdistill.autodiff.native.engine import VALUES
from astdistill.cli.presets import _caption
from astdistill.experiment import calibration as module
from astdistill.experiment.calibration import (
    ESTIMATORS,
    KINDS,
    POINTS,
    Calibration,
    Counted,
    Rate,
    calibration,
    fitted,
    published_net,
)
from astdistill.experiment.cost import estimate, facts, stages, together
from astdistill.experiment.presets import PRESETS
from astdistill.methods.estimators import Backprop
from astdistill.methods.trajectory_matching import AST, AST_AS_RELEASED, FTD, MTT
from astdistill.models.convnets import ConvNet
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime.errors import InputError

TRUE = Rate(call=1e-3, plane=2e-9, operation=5e-12, bytes=7.0)
FAST = Calibration(device="cpu", engine="native", timed="then", rates={kind: TRUE for kind in KINDS})


def counted(name: str, found: Calibration | None = FAST) -> Counted:
    return Counted(PRESETS[name], facts(PRESETS[name]), found)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path))
    return tmp_path / "calibration"


@pytest.mark.parametrize("kind", KINDS)
def test_a_rate_is_found_again_from_its_times(kind: str) -> None:
    costs = [(TRUE.seconds(net, KINDS[kind], images), 7 * images * net.size**2 * net.width) for net, images in POINTS]
    found = fitted(KINDS[kind], costs)
    for name, value in TRUE:
        assert getattr(found, name) == pytest.approx(value, rel=1e-6)


def test_no_part_of_a_rate_is_negative_where_times_are_noisy() -> None:
    found = fitted(KINDS["plain"], [(0.01, 1), (0.02, 1), (0.01, 1)])
    assert min(found.call, found.plane, found.operation) >= 0
    assert found.seconds(POINTS[-1][0], KINDS["plain"], 25) > 0


def test_the_counted_network_is_the_built_one() -> None:
    """Parameters and the numbers that come out of convolutions, of every network of a preset."""
    for preset in {(each.model, facts(each)): each for each in PRESETS.values()}.values():
        known = facts(preset)
        network, features, planes = (
            build_model(preset.model, known.shape, known.classes),
            torch.zeros(1, *known.shape),
            0,
        )
        assert isinstance(network, ConvNet)
        for layer in network.features:
            features = layer(features)
            planes += features.numel() if isinstance(layer, torch.nn.Conv2d) else 0
        net = published_net(preset.model, known)
        assert (net.parameters, net.planes) == (FlatModel(network).size, planes)


def test_steps_cost_what_they_are_made_of() -> None:
    seconds = {
        method: counted("cifar100-ipc1").expert_step(method, 256, True)[0]
        for method in (MTT, FTD, AST, AST_AS_RELEASED)
    }
    net = published_net("convnet-d3", facts(PRESETS["cifar100-ipc1"]))
    assert seconds[MTT] == FAST.seconds("plain", net, 256)
    assert seconds[FTD] == 2 * seconds[MTT]
    assert seconds[AST] == FAST.seconds("penalised", net, 256)
    assert seconds[AST_AS_RELEASED] == seconds[MTT] + seconds[AST]
    assert counted("cifar100-ipc1").expert_step(AST, 256, False)[0] == seconds[MTT]
    taken = counted("cifar100-ipc50-mtt").outer_step(PRESETS["cifar100-ipc50-mtt"])[0]
    assert taken == pytest.approx(80 * FAST.seconds("recompute", net, 125))


def test_memory_grows_until_the_engine_splits_its_batches() -> None:
    net = POINTS[-1][0]
    assert FAST.bytes("plain", net, 10) == 7 * 10 * 32**2 * 128
    assert FAST.bytes("plain", net, 1000) == 7 * VALUES
    assert FAST.replace(engine="eager").bytes("plain", net, 1000) == 7 * 1000 * 32**2 * 128


def test_without_a_device_there_is_no_time_but_states_and_data_count() -> None:
    preset = PRESETS["cifar100-ipc1"]
    found = stages(preset, facts(preset), counted("cifar100-ipc1", None))
    assert all(math.isnan(stage.seconds) for stage in found)
    assert together(found).memory > 60000 * 3072 * 4
    assert [stage.disk for stage in found] == [
        stage.disk for stage in stages(preset, facts(preset), counted("cifar100-ipc1"))
    ]


def test_every_preset_is_counted() -> None:
    for name, preset in PRESETS.items():
        assert together(stages(preset, facts(preset), counted(name))).seconds > 0


def test_what_is_not_counted_says_so() -> None:
    preset = PRESETS["cifar100-ipc1"]
    with pytest.raises(InputError, match="--dry-run"):
        published_net("resnet18", facts(preset))
    with pytest.raises(InputError, match="Backprop is not counted"):
        counted("cifar100-ipc1").outer_step(preset.replace(method=preset.method.replace(estimator=Backprop())))


def test_it_is_measured_once_and_again_when_asked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []

    def measure(device: str, engine: str) -> Calibration:
        timed.append(engine)
        return FAST.replace(engine=engine, timed=str(len(timed)))

    monkeypatch.setattr(module, "_timed", measure)
    first = calibration("cpu")
    assert calibration("cpu") == first
    assert calibration("cpu", anew=True) == calibration("cpu") != first
    monkeypatch.setenv("ASTDISTILL_ENGINE", "eager")
    assert (other := calibration("cpu")) is not None
    assert (other.engine, len(timed)) == ("eager", 3)
    for file in cache.iterdir():
        file.write_text("{")
    assert calibration("cpu") is not None
    assert len(timed) == 4
    monkeypatch.setenv("ASTDISTILL_CACHE", "/dev/null/nowhere")
    assert calibration("cpu") is not None  # a cache that cannot be written


def test_other_kernels_are_measured_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []
    monkeypatch.setattr(module, "_engine", lambda device: "native")
    monkeypatch.setattr(module, "_timed", lambda device, engine: timed.append(engine) or FAST)
    for kernels in ("first", "first", "second"):
        monkeypatch.setattr(module.library, "identity", lambda name=kernels: name)
        calibration("cpu")
    assert timed == ["native", "native"]


def test_what_was_measured_beside_other_work_is_told_of_and_not_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter([0.25, 0.9])
    monkeypatch.setattr(module, "_timed", lambda device, engine: FAST.replace(engine=engine, share=next(shares)))
    disturbed = calibration("cpu")
    assert not cache.exists()
    assert calibration("cpu") == calibration("cpu") != disturbed
    assert "25% of a core beside other work" in _caption(disturbed, "cpu")
    assert "other work" not in _caption(calibration("cpu"), "cpu")


def test_the_share_is_that_of_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_probed", lambda *_: {kind: (0.01, 1) for kind in KINDS})
    for worked, share in ((1.0, 0.25), (12.0, 1.0)):
        wall, spent = iter((0.0, 4.0)), iter((0.0, worked))
        monkeypatch.setattr(module.time, "perf_counter", lambda wall=wall: next(wall))
        monkeypatch.setattr(module.time, "process_time", lambda spent=spent: next(spent))
        assert module._timed("cpu", "native").share == share


@pytest.mark.slow
def test_counted_costs_are_near_to_timed_ones(cache: Path) -> None:
    """Within a factor of 10 here, because the machine may be busy with other things at either time."""
    found = calibration("cpu")
    assert found is not None
    assert set(ESTIMATORS.values()) | {"plain", "penalised"} == set(found.rates)
    for name in ("digits-ipc1", "cifar100-ten-ipc10"):
        preset = PRESETS[name]
        for told, timed in zip(stages(preset, facts(preset), counted(name, found)), estimate(preset), strict=True):
            assert (told.name, told.disk) == (timed.name, timed.disk)
            assert timed.seconds / 10 < told.seconds < 10 * timed.seconds
            assert abs(told.memory - timed.memory) < max(1e8, 0.5 * timed.memory)
