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
from suite.shared import BUSY, CHOSEN, Key, Shared, _unmeasured, busy, fair_share

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
        ("step", 0, "1000", 2): [(1.0, 2), (2.0, 2), (4.0, 2)],
        ("step", 0, "1000", 1): [(2.0, 1), (4.0, 1), (8.0, 1)],
        ("step", 1, "1000", 2): [(1.5, 2), (3.0, 2), (6.0, 2)],
        ("step", 1, "1000", CHOSEN): [(2.2, 1), (4.4, 1), (6.6, 2)],
        ("step", 4, "1000", 1): [(6.0, 1), (12.0, 1), (24.0, 1)],
        ("step", 4, "300", 1): [(6.0, 1)],
    }
    rows = {(row["busy"], row["variant"], row["threads"]): row for row in Shared(2, taken).rows()}
    alone, two, chosen = rows[0, "1000", 2], rows[1, "1000", 2], rows[1, "1000", "chosen"]
    assert alone["fair"] == alone["quiet"] == alone["all"] == 1.0
    assert two["quiet"] == 1.5
    assert two["fair"] == pytest.approx(1.0), "two of three that want a core have four thirds of two"
    assert (two["seconds"], two["spread"], two["n"]) == (3.0, 4.5, 3)
    assert chosen["took"] == [1, 2]
    assert chosen["fair"] == pytest.approx(1.1), "one has a core to itself, as alone"
    assert chosen["all"] == pytest.approx(2.2 / 1.5)
    assert rows[4, "1000", 1]["fair"] == pytest.approx(3 / 2.5), "a fifth of two cores, where alone it had one"
    assert rows[4, "300", 1]["fair"] is rows[4, "300", 1]["quiet"] is None


def test_what_was_chosen_is_measured_alone_too() -> None:
    found: dict[Key, list[tuple[float, int]]] = {
        ("step", 0, "1000", 4): [(1.0, 4)],
        ("step", 1, "1000", CHOSEN): [(1.0, 3)],
        ("step", 2, "1000", CHOSEN): [(1.0, 4)],
    }
    assert _unmeasured(found, 0) == [("step", "1000", 3)]
    assert _unmeasured(found, 1) == [("step", "1000", 3), ("step", "1000", 4)]


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


def test_a_busy_process_ends_whose_parent_ended_before_it_began() -> None:
    """As after SIGKILL: it has another parent by the time it runs."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    subprocess.run([sys.executable, "-c", BUSY, str(gone.pid)], timeout=60, check=True)


@pytest.mark.slow
def test_from_words_to_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    words = ["shared", "--case", "tiny", "-n", "1", "--busy", "1", "--spin", "1000", "--quiet"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    for word in ("tiny", "1000", "chosen: ", "fair share"):
        assert word in shown


@pytest.mark.parametrize(
    "words", [["--case", "none"], ["--spin", "often"], ["-n", "0"], ["--busy", "-1"], ["--threads", "-1"]]
)
def test_what_cannot_be_measured_is_one_sentence(words: list[str]) -> None:
    with pytest.raises(InputError):
        shared.shared(words)


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, signal.SIGKILL],
)
def test_a_bench_that_a_signal_ends_leaves_no_process_behind(number: signal.Signals) -> None:
    """Its measurements and the busy processes: all in sessions of their own, which no signal of a terminal reaches."""
    further = ["--busy", "2", "--spin", "1000"]
    words = [
        sys.executable,
        "-m",
        "suite",
        "shared",
        "--case",
        "tiny",
        "-n",
        "1000",
        "--threads",
        "2",
        "--quiet",
        *further,
    ]
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
    assert code == {signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
