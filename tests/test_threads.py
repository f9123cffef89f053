"""How many threads a command computes with: as many as a run was begun with, and in a new one as other processes leave
cores free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from astdistill.cli import main as main_module
from astdistill.cli import verbs
from astdistill.cli.main import main
from astdistill.cli.options import parse
from astdistill.data.synthetic import SyntheticSet
from astdistill.experiment.plan import over_seeds
from astdistill.experiment.presets import preset
from astdistill.experiment.sweep import run_row
from astdistill.runtime import progress
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import read_json, write_json
from astdistill.runtime.machine import Named, Room, Started, cores
from astdistill.runtime.parallel import NUMBERS, limited
from astdistill.runtime.progress import Bar, be_quiet
from astdistill.runtime.provenance import machine
from astdistill.runtime.run_dir import RunDir

TINY = ["--model", "convnet-d1-w4", "--data.per-class", "3", "--distill.iterations", "1", "--method", "dm", "--quiet"]


def begun(folder: Path, **where: object) -> list[str]:
    """The words of a run that was begun so."""
    folder.mkdir()
    write_json(folder / "provenance.json", {"machine": machine() | where})
    return ["digits-ipc1", "--out", str(folder)]


@pytest.mark.parametrize(
    ("where", "asked", "threads"),
    [
        ({"threads": 3}, [], 3),
        ({"threads": 3}, ["--threads", "2"], 2),
        ({"threads": 3, "processor": "another one"}, [], 1),
        ({"threads": 10**9}, [], 1),
        ({"threads": "3"}, [], 1),
        ({"threads": 3, "threads_of_workers": "4"}, [], 1),
    ],
    ids=["resumed", "asked for", "another processor", "too many", "no number", "no number of workers"],
)
def test_a_run_goes_on_with_the_threads_that_it_was_begun_with(
    where: dict[str, object], asked: list[str], threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "own_threads", lambda: 1)
    assert verbs.threads_of(parse("run", [*begun(tmp_path / "run", **where), *asked])) == (threads, threads)


def test_it_is_said_where_they_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    monkeypatch.setattr(verbs, "own_threads", lambda: 1)
    monkeypatch.setattr(progress, "tell", told.append)
    be_quiet(False)
    assert verbs.threads_of(parse("run", begun(tmp_path / "run", threads=1))) == (1, 1)
    assert told == []
    verbs.threads_of(parse("run", begun(tmp_path / "more", threads=2)))
    (said,) = told
    assert "begun with 2 threads and keeps them" in said
    assert "to use 1: --threads 1" in said


class Beside:
    """In the place of what is looked at: cores, and other processes that keep some of them busy."""

    def __init__(self, cores: int, busy: float) -> None:
        self.looked, self._room = 0, Room(cores, busy)

    @property
    def room(self) -> Room:
        self.looked += 1
        return self._room


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float], Beside]:
    """Makes a machine of so many cores, so many of them busy, on which nobody has named a number of threads."""

    def made(count: int, busy: float) -> Beside:
        there = Beside(count, busy)
        monkeypatch.setattr(Started, "neighbours", there)
        monkeypatch.setattr(verbs, "own_threads", lambda: count)
        return there

    for name in NUMBERS:
        monkeypatch.delenv(name, raising=False)
    return made


NEW = ["digits-ipc1", "--out", "none"]


@pytest.mark.parametrize(
    ("count", "busy", "step"),
    [
        (2, 0.0, 2), (2, 0.3, 2), (2, 0.9, 1), (2, 1.0, 1), (2, 1.33, 1), (2, 2.0, 1),
        (16, 4.2, 12), (16, 15.5, 1), (1, 1.0, 1),
    ],
)  # fmt: skip
def test_a_step_takes_as_many_threads_as_cores_are_free_and_workers_divide_all(
    count: int, busy: float, step: int, beside: Callable[[int, float], Beside]
) -> None:
    beside(count, busy)
    assert verbs.threads_of(parse("run", NEW)) == (step, count)
    assert verbs.threads_of(parse("experts", NEW), follow=False) == (count, count)


def test_nobody_looks_where_a_number_is_named(
    beside: Callable[[int, float], Beside], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there = beside(4, 4.0)
    assert verbs.threads_of(parse("run", [*NEW, "--threads", "4"])) == (4, 4)
    assert verbs.threads_of(parse("run", begun(tmp_path / "run", threads=3))) == (3, 3)
    for name in NUMBERS:
        monkeypatch.setenv(name, "4")
        assert verbs.threads_of(parse("run", NEW)) == (4, 4)
        monkeypatch.delenv(name)
    assert there.looked == 0
    monkeypatch.setattr(Started, "neighbours", None)
    assert verbs.threads_of(parse("run", NEW)) == (4, 4), "no command of ours has noted when it began"


def test_a_system_that_says_nothing_has_its_cores_free(
    beside: Callable[[int, float], Beside], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = beside(4, 4.0)
    monkeypatch.setattr(there, "_room", None)
    assert verbs.threads_of(parse("run", NEW)) == (4, 4)


def test_it_is_said_why_there_are_fewer(
    beside: Callable[[int, float], Beside], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(progress, "tell", told.append)
    be_quiet(False)
    for count, busy in ((2, 0.0), (2, 1.04), (8, 2.26)):
        beside(count, busy)
        verbs.threads_of(parse("run", NEW))
    assert told == [
        "1 thread, because other processes keep 1 of 2 cores busy; --threads 2 takes both.",
        "6 threads, because other processes keep 2.3 of 8 cores busy; --threads 8 takes all.",
    ]


def test_a_dry_run_says_it_too(
    beside: Callable[[int, float], Beside], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    monkeypatch.setattr(progress, "tell", told.append)
    monkeypatch.setattr(verbs, "computing_with", lambda threads: limited(1))
    monkeypatch.setattr(main_module, "Neighbours", lambda: Beside(2, 1.0))
    beside(2, 1.0)
    monkeypatch.setattr(progress.Output, "quiet", False)
    assert main(["run", "digits-ipc1", "--model", "convnet-d1-w4", "--method", "dm", "--dry-run"]) == 0
    assert any("1 thread, because other processes keep 1 of 2" in text for text in told)
    assert "1 thread" in capsys.readouterr().out


def test_a_run_begun_beside_others_goes_on_alone_to_the_same_bits(
    beside: Callable[[int, float], Beside], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the threads of its beginning, in its steps and for its workers; its settings are those of any other run."""
    words = ["distill", "digits-ipc1", *TINY, "--out"]
    now = {"busy": 1.0}
    beside(2, 1.0)
    monkeypatch.setattr(main_module, "Neighbours", lambda: Beside(2, now["busy"]))
    assert main([*words, str(tmp_path / "whole"), "--distill.iterations", "2"]) == 0
    assert main([*words, str(tmp_path / "parts")]) == 0
    now["busy"] = 0.0
    assert main([*words, str(tmp_path / "parts"), "--distill.iterations", "2"]) == 0
    found = read_json(tmp_path / "parts" / "provenance.json")
    places = [place["machine"] for place in (found, *found["resumed"])]
    assert {(place["threads"], place["threads_of_workers"]) for place in places} == {(1, 2)}
    assert RunDir(tmp_path / "parts").threads(machine()["processor"]) == (1, 2)
    whole, parts = (SyntheticSet.load(RunDir(tmp_path / name).synthetic) for name in ("whole", "parts"))
    assert torch.equal(whole.images, parts.images)
    assert main([*words, str(tmp_path / "alone"), "--threads", "2", "--distill.iterations", "2"]) == 0
    assert "threads_of_workers" not in read_json(tmp_path / "alone" / "provenance.json")["machine"]
    settings = [read_json(tmp_path / name / "config.json") for name in ("parts", "alone")]
    assert settings[0] == settings[1]


def test_a_row_of_a_sweep_goes_on_with_the_threads_that_it_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(tmp_path / "seed-0", threads=1, threads_of_workers=4)
    seen = []

    def run(*_: object) -> None:
        seen.append((torch.get_num_threads(), Named.threads))
        raise InputError("that is all")

    monkeypatch.setattr("astdistill.experiment.sweep.run_experiment", run)
    (row,) = over_seeds(preset("digits-ipc1"), 1)
    assert run_row((tmp_path, ()), row, Bar("", 0, 0, None)).sentence == "that is all"
    assert seen == [(1, 4)]


@pytest.mark.parametrize("text", ["[]", "{", '{"machine": 7}', '{"machine": {}}'])
def test_a_damaged_record_is_no_number(text: str, tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text(text)
    assert RunDir(tmp_path).threads("any") is None


def test_a_run_is_resumed_with_its_threads_and_to_the_same_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["distill", "digits-ipc1", *TINY]
    assert main([*words, "--out", str(tmp_path / "whole"), "--threads", "2", "--distill.iterations", "2"]) == 0
    assert main([*words, "--out", str(tmp_path / "parts"), "--threads", "2"]) == 0
    assert main([*words, "--out", str(tmp_path / "parts"), "--distill.iterations", "2"]) == 0
    found = read_json(tmp_path / "parts" / "provenance.json")
    assert {place["machine"]["threads"] for place in (found, *found["resumed"])} == {2}
    assert found["machine"]["cores"] == cores()
    whole, parts = (SyntheticSet.load(RunDir(tmp_path / name).synthetic) for name in ("whole", "parts"))
    assert torch.equal(whole.images, parts.images)
