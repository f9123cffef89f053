"""What a run says of itself: the same on a terminal, in plain lines and in the file for other terminals, and nothing
when quiet."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from astdistill.runtime import progress, status
from astdistill.runtime import progress as bars
from astdistill.runtime.owners import Owner
from astdistill.runtime.progress import bar, be_quiet, phase, quietly, write_status
from astdistill.runtime.run_dir import SILENT_S, RunDir
from astdistill.runtime.status import Status, alive, read_status


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is printed where there is no terminal, with a line for every step."""
    be_quiet(False)
    stream = io.StringIO()
    monkeypatch.setattr(progress.Output, "console", Console(file=stream, width=60))
    monkeypatch.setattr(bars, "PLAIN_EVERY_S", 0.0)
    return stream


def test_a_plain_line_has_count_pace_time_left_memory_and_note(
    shown: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with bar("training [experts]", 1000, 600, "images", per=50) as work:
        now[0] += 4.0
        work.step(200, "loss 0.5, a note [that] is longer than the width of the console")
    first, line = shown.getvalue().splitlines()
    assert first == "training [experts]: 400 to do"
    assert re.fullmatch(
        r"training \[experts\]: 800/1,000, 2,500 images/s, about 4.0 s left, [\d.]+ [MG]B, loss 0.5, .* console", line
    )


def test_what_an_earlier_run_did_says_nothing_of_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars.time, "monotonic", lambda: clock)
    clock = 100.0
    with quietly(), bar("training", 1000, 200) as work:
        work.skip(300)
        clock = 110.0
        work.step(100)
        now = work.status()
    assert (now.done, now.pace, now.seconds_left) == (600, 10.0, 40.0)


def test_nor_does_it_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where two workers end their steps of a minute at nearly the same time, so that the last half minute holds
    two steps in one second."""
    be_quiet(False)
    stream, now = io.StringIO(), [1000.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    terminal = Console(file=stream, force_terminal=True, width=160, color_system=None, get_time=lambda: now[0])
    monkeypatch.setattr(progress.Output, "console", terminal)
    with bar("training", 60, 20) as work:
        work.skip(20)
        for seconds in (59, 1, 59, 1):
            now[0] += seconds
            work.step(1)
        now[0] += 5
        (task,) = [] if work.display is None else work.display.tasks
        assert task.completed == 44
        assert bars.LeftColumn().render(task).plain == "0:08:00"
        assert bars.PaceColumn().render(task).plain == "0.0333 steps/s"
    with bar("training", 60, 20) as work:
        (task,) = [] if work.display is None else work.display.tasks
        assert (bars.LeftColumn().render(task).plain, bars.PaceColumn().render(task).plain) == ("-:--:--", "")


def test_a_bar_on_a_terminal_shows_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    be_quiet(False)
    stream, moments = io.StringIO(), itertools.count()
    console = Console(
        file=stream, force_terminal=True, width=160, color_system=None, get_time=lambda: next(moments) / 1e4
    )
    monkeypatch.setattr(progress.Output, "console", console)
    with bar("distilling", 10, 2, "images", per=3) as work:
        for _ in range(8):
            work.step(note="loss 0.5")
    assert re.search(
        r"distilling .*10/10 +[\d.,]+ images/s +0:00:0\d +[\d:-]+ +[\d.]+ [MG]B +loss 0.5", stream.getvalue()
    )
    with phase("whitening"):
        pass
    assert "whitening" in stream.getvalue()


def test_a_part_of_the_work_is_told_of_and_the_whole_goes_on(
    shown: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In plain lines and in the file; between two lines there is one pause, whoever prints them."""
    monkeypatch.setattr(status, "EVERY_S", 0.0)

    def now() -> tuple[str, int, str]:
        found = read_status(tmp_path / "live.json")
        assert found is not None
        return found[0].title, found[0].done, found[0].note

    with write_status(tmp_path / "live.json"), bar("distilling", 9) as whole:
        whole.step(2, "loss 0.5")
        with bar("validating", 4) as part:
            part.step(3, "80 %")
            assert now() == ("validating", 3, "80 %")
        assert now() == ("distilling", 2, "loss 0.5")
        monkeypatch.setattr(bars, "PLAIN_EVERY_S", 60.0)
        whole._printed -= 61.0
        with bar("validating", 4) as part:
            part.step(1)
            part.step(3)
        whole.step(1)
    lines = [line.partition(",")[0] for line in shown.getvalue().splitlines()]
    assert lines == ["distilling: 9 to do", "distilling: 2/9", "validating: 3/4", "validating: 1/4"]


def test_a_part_on_a_terminal_is_a_line_of_its_own_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    be_quiet(False)
    stream = io.StringIO()
    monkeypatch.setattr(
        progress.Output, "console", Console(file=stream, force_terminal=True, width=160, color_system=None)
    )
    with bar("distilling", 9) as whole:
        whole.step(2)
        with bar("validating", 4) as part, phase("compiling"):
            part.step(3, "80 %")
            assert whole.display is not None
            whole.display.refresh()
            drawn = stream.getvalue()
            stream.truncate(0)
        whole.step(1, "loss 0.5")
    assert re.search(r"distilling .*2/9 .*\n.*validating .*3/4 .*80 %.*\n.*compiling", drawn)
    last = stream.getvalue().rpartition("distilling")[2]
    assert re.match(r" .*3/9 .*loss 0.5", last)
    assert "validating" not in last
    assert "compiling" not in last


def test_quiet_is_silent(shown: io.StringIO, tmp_path: Path) -> None:
    be_quiet(True)
    with write_status(tmp_path / "live.json"), bar("work", 2) as work, quietly(), phase("more"):
        work.step(2, "note")
    assert shown.getvalue() == ""


def test_a_long_phase_is_told_of_and_a_short_one_is_not(shown: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    said, say = threading.Event(), bars._say
    with phase("short"):
        pass
    monkeypatch.setattr(bars, "LONG_S", 0.0)
    monkeypatch.setattr(bars, "_say", lambda title: (say(title), said.set()))
    with phase("long"):
        said.wait()
    assert shown.getvalue() == "long …\n"


def test_the_file_follows_and_goes_when_the_work_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "EVERY_S", 0.0)
    path = tmp_path / "live.json"
    with write_status(path):
        assert read_status(path)
        with bar("work", 4, unit="images") as work:
            work.step(3, "loss 0.5")
            with quietly(), bar("inside", 9):
                pass
            found = read_status(path)
            assert found is not None
            now, process = found
            assert (now.title, now.done, now.total, now.unit, now.note) == ("work", 3, 4, "images", "loss 0.5")
            assert process["pid"] == os.getpid()
            assert alive(process, RunDir(tmp_path))
        with phase("ends when it ends"):
            found = read_status(path)
            assert found is not None
            assert found[0].total is None
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_the_file_and_says_that_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "live.json"
    with pytest.raises(KeyboardInterrupt), write_status(path), bar("work", 4):
        raise KeyboardInterrupt
    found = read_status(path)
    assert found is not None
    assert found[0].title == "work"
    assert not alive(found[1], RunDir(tmp_path))


def test_a_file_that_cannot_be_written_stops_nothing_and_half_a_file_is_none(tmp_path: Path) -> None:
    with write_status(tmp_path / "no folder" / "live.json"), bar("work", 1) as work:
        work.step()
    for text in ("", '{"title": "work", "do', "[]", "{}"):
        (tmp_path / "live.json").write_text(text)
        assert read_status(tmp_path / "live.json") is None


def written_by(path: Path, **owner: Any) -> dict[str, Any]:
    """The process of a status, as a reader of its file finds it, with some of its facts changed."""
    status.StatusFile(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | owner))
    found = read_status(path)
    assert found is not None
    return found[1]


def test_a_dead_process_is_seen_also_if_another_has_its_number(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    run = RunDir(tmp_path)
    assert alive(written_by(run.live), run)
    assert not alive(written_by(run.live, pid=dead.pid), run)
    if Owner.present().started:
        assert not alive(written_by(run.live, started="1"), run)


@pytest.mark.parametrize("earlier", [False, True])
def test_a_process_elsewhere_runs_while_it_touches_its_mark(earlier: bool, tmp_path: Path) -> None:
    """Earlier versions wrote neither machine nor start time: such a process may be one of this host before it booted."""
    run = RunDir(tmp_path)
    process = written_by(run.live, host="node7", machine="0123abcd", pid=4711)
    if earlier:
        process = {name: value for name, value in process.items() if name not in ("machine", "started")}
    assert not alive(process, run), "it has left no mark"
    mark = Owner("node7", "0123abcd", 4711, "5", time.time())
    run.writer.write_text(json.dumps(mark.to_json()))
    assert alive(process, run)
    assert not alive(process | {"pid": 4712}, run), "the mark is that of another one"
    assert not alive(process | {"stopped": True}, run)
    silent = time.time() - SILENT_S - 1
    os.utime(run.writer, (silent, silent))
    assert not alive(process, run)


MEMORY = """
import subprocess, sys
from astdistill.runtime.status import resident
BLOCK = "block = b'x' * 100_000_000; print('ready', flush=True); input()"
before = resident()
block = b"x" * 100_000_000
print(resident() - before)
del block
before = resident()
with subprocess.Popen([sys.executable, "-c", BLOCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
    worker.stdout.readline()
    print(resident() - before)
    worker.communicate("\\n")
"""
"""In a process of its own: what other tests left to be freed, in theirs, comes and goes while this one counts."""


def test_memory_counts_what_is_taken_here_and_in_workers() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    here, worker = map(int, done.stdout.split())
    assert 90e6 < here < 130e6
    assert 90e6 < worker < 130e6


def test_status_survives_the_file(tmp_path: Path) -> None:
    file = status.StatusFile(tmp_path / "live.json")
    whole = Status("work", 1, None, 0.0, "steps", None, "1 MB", "η 0.01")
    file.write(whole)
    found = read_status(tmp_path / "live.json")
    assert found is not None
    assert found[0] == whole
    assert json.loads((tmp_path / "live.json").read_text())["command"] == sys.argv[1:]
