"""Runs and stores of an earlier version go on in this one, and its results come out again, to the bit.

`data/frozen/runs` was written once by commit 53597ca and is never written again: version 0.1.0, torch 2.13 on a CPU,
one thread, engine auto (the kernels for `ast`, `demo` and `short`; torch's own for `datm`, whose network is narrow).
`NAME-half` is a run that was killed in its sixth outer step of twelve, as its `state.safetensors` says; `NAME-whole` is
the result of the same run when nothing stopped it, with the same `experts`. `demo-whole` is `astdistill demo`, and
`short-whole` the same preset with one expert, ten iterations and one network. Commit, arguments and machine were taken
out of their provenance; `written.json` says what rounding depends on. `dm-half` and `dm-whole` are of commit e83d00e:
five and twelve iterations of `digits-ipc1 --method dm`, with numbers of trajectory matching among its settings.

Where all of that is the same here, every comparison is exact. Another processor, compiler or torch rounds otherwise,
which the twelve steps leave below 1e-6 (measured between the two engines): there the resumed images are compared within
1e-5, and networks that are trained on the way within a few percent of the images that they classify.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from astdistill.distillation.snapshots import StartMap
from astdistill.distillation.state import Counters
from astdistill.evaluation.training import NetworkResult
from astdistill.experiment.config import Experiment
from astdistill.experiment.pipeline import prepare, run_experiment
from astdistill.experts.recipe import ExpertCurve
from astdistill.experts.store import TrajectoryStore
from astdistill.methods.distribution_matching import DM
from astdistill.methods.initialisation import RealInit
from astdistill.methods.segments import Perturbation
from astdistill.report.compare import compared, read_finished
from astdistill.runtime.config import by_todays_names
from astdistill.runtime.files import load_tensors, read_json, read_lines
from astdistill.runtime.owners import Owner
from astdistill.runtime.status import Status

FROZEN = Path(__file__).parent / "data" / "frozen" / "runs"
RUNS = "ast", "datm"
OTHERS: dict[str, dict[str, Any]] = {"ast": {"perturb": Perturbation()}, "datm": {"init": RealInit()}}
"""A change of each one's method."""


def rounding() -> dict[str, str]:
    """What decides the last bits of a result on a CPU."""
    compiler = shutil.which("cc")
    words = [compiler, "--version"] if compiler else ["true"]
    version = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text(encoding="utf-8").splitlines() if cpus.exists() else []
    return {
        "torch": torch.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "vendor": next((line.split()[-1] for line in lines if line.startswith("vendor_id")), ""),
        "compiler": next(iter(version.splitlines()), ""),
    }


EXACT = rounding() == read_json(FROZEN / "written.json")
"""Whether this machine rounds as the one that wrote the files."""


@pytest.fixture(autouse=True)
def _beside_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FROZEN, tmp_path / "frozen")
    monkeypatch.chdir(tmp_path / "frozen")
    monkeypatch.delenv("ASTDISTILL_ENGINE", raising=False)


def run(config: Path, out: Path) -> None:
    run_experiment(Experiment.model_validate(read_json(config)), out)


def assert_same_set(found: Path, expected: Path, atol: float) -> None:
    tensors, wanted = (load_tensors(folder / "synthetic.safetensors")[0] for folder in (found, expected))
    torch.testing.assert_close(tensors, wanted, rtol=0, atol=0 if EXACT else atol)


def assert_same_scores(found: Path, expected: Path, percent: float) -> None:
    scores, wanted = read_json(found / "scores.json"), read_json(expected / "scores.json")
    if EXACT:
        later = ("per_slot", "stored_bytes", "digests")  # what earlier versions did not say
        assert scores.pop("seed") == 0
        scores["subject"] = {name: value for name, value in scores["subject"].items() if name not in later}
        assert scores == wanted
    for table in ("architecture", "baselines"):
        assert {name: row["mean"] for name, row in scores[table].items()} == pytest.approx(
            {name: row["mean"] for name, row in wanted[table].items()}, abs=percent
        )


def parts_of(value: Any) -> list[str]:
    """The name of every part in a configuration."""
    if not isinstance(value, dict):
        return []
    return [each for name, inner in value.items() for each in ([inner] if name == "part" else parts_of(inner))]


def bytes_of(store: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in store.iterdir() if "json" in path.suffix or "tensors" in path.suffix
    }


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_of_an_earlier_version_goes_on_to_the_same_bits(name: str) -> None:
    half, whole = Path(f"{name}-half"), Path(f"{name}-whole")
    before = load_tensors(half / "state.safetensors")[1]
    stores = {store: bytes_of(store) for store in Path("experts").iterdir()}
    assert before["counters"]["iteration"] == 5
    run(half / "config.json", half)
    after = load_tensors(half / "state.safetensors")[1]
    assert (after["key"], after["counters"]["iteration"]) == (before["key"], 12)
    timed = [line["iteration"] for line in read_lines(half / "clock.jsonl") if "iteration" in line]
    assert timed == [*range(6), *range(5, 12)], "only the step that the kill cut short is taken again"
    assert {store: bytes_of(store) for store in Path("experts").iterdir()} == stores, "no expert is trained again"
    assert_same_set(half, whole, 1e-5)
    assert_same_scores(half, whole, 10)
    lines, wanted = read_lines(half / "metrics.jsonl"), read_lines(whole / "metrics.jsonl")
    for line, other in zip(lines, wanted, strict=True):
        near = {} if EXACT else {each: pytest.approx(other[each], rel=1e-4) for each in ("loss", "lr")}
        assert line == other | near


def test_a_run_goes_on_whose_settings_held_numbers_that_its_step_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are still what its saved state is known by, also when the run is cut off before it saves its own."""
    monkeypatch.setenv("ASTDISTILL_ENGINE", "eager")  # by which `dm` was computed then
    half, written = Path("dm-half"), read_json(Path("dm-half/config.json"))
    experiment = Experiment.model_validate(written)
    assert (written["distill"]["inner_steps"], written["distill"]["max_start_epoch"]) == (20, 10)
    assert not {"inner_steps", "syn_steps"} & experiment.to_json()["distill"].keys()
    assert experiment.method == DM
    longer = experiment.replace(
        distill=experiment.distill.replace(iterations=12), evaluation=experiment.evaluation.replace(baselines=())
    )
    for _ in range(2):
        prepare(longer, half)
    run_experiment(longer, half)
    assert [line["iteration"] for line in read_lines(half / "metrics.jsonl")] == list(range(12))
    assert_same_set(half, Path("dm-whole"), 1e-5)
    again = load_tensors(half / "state.safetensors")[1]["key"]
    shutil.rmtree(half)
    run_experiment(longer, half)
    assert load_tensors(half / "state.safetensors")[1]["key"] == again


@pytest.mark.parametrize("name", RUNS)
def test_a_configuration_of_an_earlier_version_is_the_same_experiment(name: str) -> None:
    written = read_json(Path(f"{name}-half/config.json"))
    experiment = Experiment.model_validate(written)
    assert all(part.startswith("astdistill.") for part in parts_of(written))
    assert parts_of(experiment.to_json()) == ["TrajectoryMatching", *parts_of(by_todays_names(written))]
    step, settings = experiment.to_json()["method"]["step"], written["distill"]
    assert [step[name] for name in ("syn_steps", "expert_epochs", "max_start_epoch", "batch_syn", "trajectories")] == [
        settings[name] for name in ("inner_steps", "matched_epochs", "max_start_epoch", "batch_syn", "trajectories")
    ]
    assert Experiment.model_validate(experiment.to_json()) == experiment
    assert experiment.method.name == name


@pytest.mark.parametrize("name", RUNS)
def test_a_folder_of_an_earlier_version_still_belongs_to_its_run_alone(name: str) -> None:
    half = Path(f"{name}-half")
    experiment = Experiment.model_validate(read_json(half / "config.json"))
    other = experiment.replace(method=experiment.method.replace(**OTHERS[name]))
    with pytest.raises(ValueError, match=r"holds a run with other settings \(method\.\w+\.\w+ was"):
        run_experiment(other, half)


@pytest.mark.parametrize("store", sorted(path.name for path in (FROZEN / "experts").iterdir()))
def test_a_store_of_an_earlier_version_opens(store: str) -> None:
    found = TrajectoryStore.open(Path("experts") / store)
    assert found.identity.digest() == store
    assert found.experts() == [0, 1]
    assert found.rows(1, 0, 5).shape == (5, found.identity.parameters)
    assert all(len(curve.step_squared) == 4 for curve in found.curves())


@pytest.mark.parametrize("name", RUNS)
def test_finished_scores_of_an_earlier_version_are_read(name: str) -> None:
    run = read_finished(Path(f"{name}-whole"))
    written = read_json(Path(f"{name}-whole/scores.json"))
    assert run.entry.mean == written["architecture"][run.network]["mean"]
    assert run.subject.method == name
    assert set(run.baselines) == {"random", "kmeans", "full"}
    assert len(compared([run])[0].rows) == 1


def test_the_start_map_of_an_earlier_version_is_read() -> None:
    start = StartMap.read(Path("ast-half"))
    assert start is not None
    assert len(start.apart) == len(start.together) == len(start.classes)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Counters, "iteration skipped skipped_in_a_row passed passed_in_a_row best plateau"),
        (StartMap, "together apart classes clusters chosen"),
        (NetworkResult, "final best diverged by_class confusion by_steps"),
        (ExpertCurve, "train_accuracy test_accuracy step_squared"),
        (Owner, "host machine pid started since"),
        (Status, "title done total pace unit seconds_left memory note"),
    ],
)
def test_fields_that_files_are_written_with_keep_their_names(kind: Any, names: str) -> None:
    """A new one is added here, with a default, so that files of earlier versions are still read."""
    assert " ".join(each.name for each in fields(kind)) == names


def test_a_few_steps_of_the_demo_give_the_images_of_an_earlier_version() -> None:
    """On another processor the expert's last bits differ, and grow in its twenty epochs: 0.02 between the two
    engines."""
    run(Path("short-whole/config.json"), Path("short"))
    assert_same_set(Path("short"), Path("short-whole"), 0.1)
    assert_same_scores(Path("short"), Path("short-whole"), 10)


@pytest.mark.slow
def test_the_demo_gives_the_images_and_scores_of_an_earlier_version() -> None:
    """On another processor its 300 steps give other images, which are as good. The first network alone is trained on
    them; baselines come out the same in the short run above."""
    experiment = Experiment.model_validate(read_json(Path("demo-whole/config.json")))
    alone = experiment.evaluation.replace(networks=1, baselines=())
    run_experiment(experiment.replace(evaluation=alone), Path("demo"))
    if EXACT:
        assert_same_set(Path("demo"), Path("demo-whole"), 0)
    scores, wanted = (read_json(Path(name, "scores.json"))["architecture"] for name in ("demo", "demo-whole"))
    first, others = scores[experiment.model]["final"], wanted[experiment.model]["final"]
    assert first == pytest.approx(others[:1], abs=0 if EXACT else 10)
