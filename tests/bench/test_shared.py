"""The bench beside busy processes, and that nothing a bench has started outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import forking
import pytest
from suite import shared
from suite.children import paths_of_the_suite
from suite.command import main
from suite.shared import TODAY, Shared, busy, fair_share

from astdistill.runtime.errors import InputError

needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are looked up in /proc")


def below(process: int) -> set[int]:
    """The processes that this one has started, and those that they have, that are still there."""
    found: set[int] = set()
    for parent in _parents():
        if parent[1] == process:
            found |= {parent[0], *below(parent[0])}
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = place.read_text().rpartition(")")
        except OSError:
            continue
        words = rest.split()
        if words[0] != "Z" and not name.endswith(f"({forking.NAME}"):
            yield int(place.parent.name), int(words[1])


def alive(processes: set[int]) -> set[int]:
    return {number for number, _ in _parents() if number in processes}


def until(true: object, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    assert callable(true)
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(
    ("threads", "beside", "cores", "share"),
    [(2, 0, 2, 2), (2, 1, 2, 4 / 3), (2, 4, 2, 2 / 3), (1, 1, 2, 1), (4, 0, 2, 2)],
)
def test_the_fair_share(threads: int, beside: int, cores: int, share: float) -> None:
    assert fair_share(threads, beside, cores) == pytest.approx(share)


def test_ratios_are_taken_within_a_repetition() -> None:
    taken = {
        ("step", 0, TODAY): [1.0, 2.0, 4.0],
        ("step", 1, "1000"): [1.5, 3.0, 6.0],
        ("step", 1, TODAY): [9.0, 9.0, 9.0],
    }
    rows = {(row["busy"], row["variant"]): row for row in Shared(2, 2, taken).rows()}
    assert rows[0, TODAY]["fair"] == rows[0, TODAY]["quiet"] == 1.0
    assert rows[1, "1000"]["quiet"] == 1.5
    assert rows[1, "1000"]["fair"] == pytest.approx(1.0), "the third of two cores that one of three has"
    assert (rows[1, "1000"]["seconds"], rows[1, "1000"]["spread"], rows[1, "1000"]["n"]) == (3.0, 4.5, 3)


def test_busy_processes_end_with_the_block_whatever_ends_it() -> None:
    seen: set[int] = set()
    before = below(os.getpid())  # children of other tests, such as a browser or multiprocessing's tracker

    def fail() -> None:
        with busy(2):
            seen.update(set(below(os.getpid())) - set(before))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert len(seen) >= 2 or not Path("/proc/self/task").exists()
    assert not alive(seen)


@pytest.mark.slow
def test_from_words_to_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    words = ["shared", "--case", "tiny", "-n", "1", "--busy", "1", "--spin", "1000", "--threads", "1", "--quiet"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    for word in ("tiny", "default", "1000", "fair share"):
        assert word in shown


@pytest.mark.parametrize("words", [["--case", "none"], ["--spin", "often"], ["-n", "0"], ["--busy", "-1"]])
def test_what_cannot_be_measured_is_one_sentence(words: list[str]) -> None:
    with pytest.raises(InputError):
        shared.shared(words)


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number"),
    [("experts", signal.SIGTERM), ("shared", signal.SIGINT), ("shared", signal.SIGKILL)],
)
def test_a_bench_that_a_signal_ends_leaves_no_process_behind(name: str, number: signal.Signals) -> None:
    """Its measurements, the experts that these train side by side, and the busy processes: all in sessions of their
    own, which no signal of a terminal reaches."""
    further = {"experts": ["--variant", "ours"], "shared": ["--busy", "2", "--spin", "1000"]}[name]
    words = [sys.executable, "-m", "suite", name, "--case", "tiny", "-n", "1000", "--threads", "2", "--quiet", *further]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([paths_of_the_suite(), *sys.path])}
    with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, start_new_session=True) as bench:
        try:
            assert until(lambda: len(below(bench.pid)) >= 3)
            seen = below(bench.pid)
            bench.send_signal(number)
            code = bench.wait(60)
            assert until(lambda: not alive(seen), 20), alive(seen)
        finally:
            bench.kill()
    assert code == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[number]
