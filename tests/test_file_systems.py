"""File systems without links or locks, full disks, other systems' ways to say things, and processes that cannot be
asked: each ends in a whole file, or in an error that names the file."""

from __future__ import annotations

import contextvars
import errno
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from astdistill.runtime import machine, owners, provenance, status
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import (
    ABANDONED_S,
    DEEPEST,
    altered_row,
    load_tensors,
    lock,
    read_json,
    read_lines,
    save_tensors,
    sweep,
    write_text,
)
from astdistill.runtime.owners import Owner, owner_alive
from astdistill.runtime.run_dir import SILENT_S, RunDir
from astdistill.runtime.status import StatusFile, described, duration, peaks, read_status, resident
from astdistill.runtime.trust import import_name, take_over

GONE = 2**31 - 1
"""A number that no process has."""
ELSEWHERE = Owner("far", "0" * 8, 7, "", 0.0)
"""A process of another machine."""


def failing(code: int) -> Callable[..., Any]:
    """A call that the system refuses."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


def test_a_file_is_whole_where_the_file_system_has_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.safetensors"
    for code in (errno.ENOTSUP, errno.EPERM):
        monkeypatch.setattr(os, "link", failing(code))
        path.unlink(missing_ok=True)
        save_tensors(path, {"x": torch.ones(2)}, stays=lambda _: True)
        save_tensors(path, {"x": torch.zeros(2)}, stays=lambda _: True)
        assert load_tensors(path)[0]["x"].tolist() == [1.0, 1.0], "what is there stays"
    monkeypatch.setattr(os, "link", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        save_tensors(path, {"x": torch.zeros(2)}, stays=lambda _: True)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_an_error_of_the_system_names_the_file_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain").touch()
    with pytest.raises(OSError, match="exists") as raised:
        write_text(tmp_path / "plain" / "scores.json", "{}")
    assert raised.value.filename == str(tmp_path / "plain" / "scores.json")

    def save_file(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", save_file)
    with pytest.raises(OSError, match="No space left") as raised:
        save_tensors(tmp_path / "state.safetensors", {"x": torch.ones(2)})
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "state.safetensors"))


def test_folders_that_a_dead_process_left_are_swept_and_those_of_others_after_a_day(tmp_path: Path) -> None:
    left = tmp_path / f".003.{owners.machine()}-{GONE}-01234567.tmp"
    ours = tmp_path / f".003.{owners.machine()}-{os.getpid()}-01234567.tmp"
    theirs = tmp_path / ".003.00000000-7-01234567.tmp"
    for folder in (left, ours, theirs):
        folder.mkdir()
        (folder / "rows.bin").touch()
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([ours, theirs])
    old = time.time() - ABANDONED_S - 60
    for path in (theirs / "rows.bin", theirs):
        os.utime(path, (old, old))
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [ours]


def test_a_run_is_written_where_there_are_no_locks_and_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    run = RunDir(tmp_path / "run")
    with run.writing():
        assert Owner.read(json.loads(run.writer.read_text())) is not None
    assert not run.writer.exists()
    with pytest.raises(OSError, match="not implemented") as raised, lock(tmp_path / "x.lock", wait=False):
        pass
    assert raised.value.filename == str(tmp_path / "x.lock")


@pytest.mark.parametrize("call", ["flock", "link"])
def test_what_else_a_file_system_says_is_passed_on(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"flock": pytest.importorskip("fcntl"), "link": os}[call]
    monkeypatch.setattr(place, call, failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"), RunDir(tmp_path / "run").writing():
        pass


BUSY = "Another process .*is writing to .*run; wait until it has ended"


def test_a_second_writer_is_refused_at_whatever_moment_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has the lock and has not signed; signs after the second has looked; is faster by a link."""
    run = RunDir(tmp_path / "run")
    with lock(run.lock, wait=False) as held, pytest.raises(InputError, match=BUSY), run.writing():
        assert held
    signed = Owner.present().to_json()
    run.writer.write_text(json.dumps(signed))
    monkeypatch.setattr(RunDir, "check_free", lambda _: None)
    with pytest.raises(InputError, match=BUSY), run.writing():
        pass
    seen = iter([Owner("here", owners.machine(), GONE, "", 0.0)])
    true = RunDir._owner
    monkeypatch.setattr(RunDir, "_owner", lambda self: next(seen, None) or true(self))
    with pytest.raises(InputError, match=BUSY), run.writing():
        pass
    assert json.loads(run.writer.read_text()) == signed, "and its note is still there"


def test_a_note_that_is_gone_is_of_nobody_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(tmp_path / "run")
    monkeypatch.setattr(RunDir, "_owner", lambda _: ELSEWHERE)
    run.check_free()
    run.folder.mkdir()
    run.writer.touch()
    with pytest.raises(InputError, match=r"Another process \(process 7 on far, since .*\) is writing"):
        run.check_free()


def test_a_run_on_other_data_is_refused_and_one_without_provenance_goes_on(tmp_path: Path) -> None:
    run, settings = RunDir(tmp_path / "run"), {"distill": {"iterations": 3}}
    run.claim(settings, "first", "cpu", read=dict)
    with pytest.raises(InputError, match=r"was run on other data \(fingerprint first, now other\); name a new folder"):
        run.claim(settings, "other", "cpu", read=dict)
    run.provenance.unlink()
    run.claim(settings, "other", "cpu", read=dict)
    assert read_json(run.provenance)["data"] == "other"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"x": NaN}', "NaN is no number"),
        ('{"x": ' + "[" * (DEEPEST + 2) + "]" * (DEEPEST + 2) + "}", "its values are nested too deeply"),
        ("[" * 200_000, "its values are nested too deeply"),
    ],
)
def test_json_that_is_none_of_ours_is_one_sentence(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"config.json cannot be read as JSON \({why}\); restore it or move it away"):
        read_json(path)


def test_damaged_lines_of_a_log_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"loss": 1}\n{"loss"\n[1]\n{"loss": 2}\n{"lo')
    assert read_lines(path) == [{"loss": 1}, {"loss": 2}]
    assert "metrics.jsonl: 2 lines, the first of them 2, cannot be read and was skipped" in capsys.readouterr().err


def test_rows_are_checked_as_far_as_there_are_digests() -> None:
    rows = torch.zeros(3, 2)
    assert altered_row(rows, ["0"]) == 1
    assert altered_row(rows[:1], ["0", "1"]) == 1


def test_processes_that_cannot_be_asked_count_as_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of another user, and on Windows all; where the system does not say since when a number is in use, the mark
    in the folder decides."""
    name = f"x.{owners.machine()}-{GONE}-01234567.tmp"
    gone = Owner(platform.node(), owners.machine(), GONE, "", time.time())
    assert owner_alive(name) is False
    assert gone.alive is False
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", failing(errno.EPERM))
        assert owner_alive(name)
        assert gone.alive is None
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        assert owner_alive(name)
        assert gone.alive is None
    monkeypatch.setattr(owners, "PROC", tmp_path)
    assert Owner.present().started == ""
    assert Owner.present().alive is None
    run = RunDir(tmp_path / "run")
    with run.writing():
        assert run.is_running(Owner.present())
        silent = time.time() - SILENT_S - 1
        os.utime(run.writer, (silent, silent))
        assert not run.is_running(Owner.present()), "killed there, it does not keep the folder for ever"


def test_a_status_of_a_number_that_no_process_has_is_none(tmp_path: Path) -> None:
    path = tmp_path / "live.json"
    StatusFile(path)
    written = json.loads(path.read_text())
    assert read_status(path) is not None
    path.write_text(json.dumps({**written, "pid": -1}))
    assert read_status(path) is None


def test_memory_is_the_peak_where_the_system_counts_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "PROC", tmp_path / "self")
    assert resident() == pytest.approx(peaks()["peak_mib"] * 2**20, rel=0.1)
    monkeypatch.setattr(status, "resource", None)
    assert resident() == 0
    assert peaks() == {}


def test_the_peak_of_gpus_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"is_initialized": True, "device_count": 2}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda number: (number + 1) * 10**9)
    assert described().endswith(", GPU peak 3.0 GB")
    assert peaks()["accelerator_peak_mib"] == 3e9 / 2**20


def test_what_is_not_a_number_of_seconds_is_a_dash() -> None:
    assert duration(float("nan")) == "-"


def test_where_a_result_came_from_is_noted_as_far_as_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    monkeypatch.setattr(provenance, "Path", lambda path: tmp_path / "none" if path == "/proc/cpuinfo" else Path(path))
    monkeypatch.setattr(subprocess, "run", failing(errno.ENOENT))
    for known in ("versions", "_commit"):  # which a process finds out once
        monkeypatch.setattr(provenance, known, getattr(provenance, known).__wrapped__)
    made = provenance.provenance()
    assert list(made["versions"]) == ["torch"]
    assert made["commit"] is None
    assert made["machine"]["processor"] == (platform.processor() or platform.machine())
    assert "processor_model" not in made["machine"]


def test_a_processor_whose_name_is_hidden_is_known_by_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n"
    (tmp_path / "cpuinfo").write_text(lines, encoding="utf-8")
    monkeypatch.setattr(provenance, "Path", lambda path: tmp_path / "cpuinfo")
    assert provenance.processor() == "AMD EPYC"
    assert provenance.processor_model() == {"processor_model": "family 25, model 17"}


def test_the_load_is_nothing_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "getloadavg")
    assert machine.load() == 0.0


def test_signs_that_a_terminal_lacks_are_spelled_in_words() -> None:
    assert "5 ± 1 η, 猫".encode("ascii", "astdistill") == rb"5 +/- 1 eta, \u732b"
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("ascii", "astdistill")


def test_another_process_trusts_what_was_typed_and_finds_it_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "networks_of_a_user.py").write_text("WIDTH = 3")
    monkeypatch.chdir(tmp_path)
    names, path = frozenset({"networks_of_a_user", "never_written", "__main__"}), list(sys.path)

    def other() -> None:
        take_over((names, names))
        assert import_name("networks_of_a_user:WIDTH") == 3
        with pytest.raises(InputError, match="Cannot import 'never_written:x'"):
            import_name("never_written:x")

    try:
        contextvars.Context().run(other)
    finally:
        sys.modules.pop("networks_of_a_user", None)
    assert sys.path == path
    with pytest.raises(InputError, match="is named by a file and is no part of astdistill"):
        import_name("networks_of_a_user:WIDTH")
