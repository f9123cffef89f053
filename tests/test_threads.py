"""How many threads a command computes with: as many as a run was begun with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from astdistill.cli import verbs
from astdistill.cli.main import main
from astdistill.cli.options import parse
from astdistill.data.synthetic import SyntheticSet
from astdistill.runtime.files import read_json, write_json
from astdistill.runtime.machine import cores
from astdistill.runtime.progress import be_quiet
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
    ],
    ids=["resumed", "asked for", "another processor", "too many", "no number"],
)
def test_a_run_goes_on_with_the_threads_that_it_was_begun_with(
    where: dict[str, object], asked: list[str], threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "own_threads", lambda: 1)
    assert verbs.threads_of(parse("run", [*begun(tmp_path / "run", **where), *asked])) == threads


def test_it_is_said_where_they_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    monkeypatch.setattr(verbs, "own_threads", lambda: 1)
    monkeypatch.setattr(verbs, "plain", told.append)
    be_quiet(False)
    assert verbs.threads_of(parse("run", begun(tmp_path / "run", threads=1))) == 1
    assert told == []
    verbs.threads_of(parse("run", begun(tmp_path / "more", threads=2)))
    (said,) = told
    assert "begun with 2 threads and goes on with them" in said
    assert "--threads 1 takes them" in said


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
