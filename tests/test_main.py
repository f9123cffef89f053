"""What a call of `main` leaves behind in the process that called it, and how it ends where nobody reads what it
prints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import forking
import pytest

from astdistill.cli.main import main

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGPIPE", "SIGHUP") if hasattr(signal, name)]


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def broken(*_: object) -> None:
    raise ZeroDivisionError("a fault of ours")


ENDS: dict[str, tuple[list[str], int, Callable[..., None] | None]] = {
    "help": (["--help"], 0, None),
    "help of a verb": (["watch", "--help"], 0, None),
    "version": (["--version"], 0, None),
    "no words": ([], 0, None),
    "no such verb": (["rum"], 2, None),
    "no such flag": (["watch", "x", "--onc"], 2, None),
    "no such flag before the verb": (["--onc", "watch"], 2, None),
    "nothing there": (["watch", "nowhere", "--once"], 2, None),
    "stopped": (["compare", "nowhere"], 130, interrupted),
    "broken": (["compare", "nowhere"], 99, broken),
}


def code_of(words: list[str]) -> int:
    try:
        return main(words)
    except ZeroDivisionError:
        return 99


@pytest.mark.parametrize("where", ["here", "in a thread"])
@pytest.mark.parametrize("name", ENDS)
def test_main_returns_a_code_and_leaves_signals_as_they_were(
    name: str, where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words, code, fault = ENDS[name]
    monkeypatch.chdir(tmp_path)
    if fault is not None:
        monkeypatch.setattr("astdistill.report.compare.read_finished", fault)

    def mine(*_: object) -> None:
        """A handler of the caller's own."""

    kept = signal.signal(signal.SIGTERM, mine)
    try:
        before, environment = [signal.getsignal(each) for each in SIGNALS], dict(os.environ)
        codes: list[int] = []
        if where == "here":
            codes.append(code_of(words))
        else:
            thread = threading.Thread(target=lambda: codes.append(code_of(words)))
            thread.start()
            thread.join()
        assert codes == [code]
        assert [signal.getsignal(each) for each in SIGNALS] == before
        assert dict(os.environ) == environment
    finally:
        signal.signal(signal.SIGTERM, kept)


RUN = (
    "run", "digits-ipc1", "--data.per-class", "6", "--experts.count", "1", "--method.expert.epochs", "3", "--model", "convnet-d1-w4",
    "--distill.iterations", "3", "--method.step.max-start-epoch", "2", "--method.step.syn-steps", "2", "--evaluation.recipe.epochs", "2",
    "--evaluation.networks", "1", "--evaluation.baselines", "random", "--out", "run",
)  # fmt: skip

WORDS = [pytest.param(("--help",), marks=pytest.mark.started_anew), ("run", "--help-all"), RUN]


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
@pytest.mark.parametrize("words", WORDS, ids=lambda words: " ".join(words)[:20])
def test_a_reader_that_leaves_ends_it_without_a_traceback(words: tuple[str, ...], tmp_path: Path) -> None:
    """As with `2>&1 | head -1`: the pipe for both streams breaks before the first word is written."""
    reading, writing = os.pipe()
    os.close(reading)
    late = tmp_path / "late.txt"
    code = f"""{forking.FORKED}
import os, sys, traceback
from astdistill.cli.main import main
try:
    code = main({list(words)!r})
except BaseException:
    open({str(late)!r}, "w").write(traceback.format_exc())
    raise
open({str(late)!r}, "w").write(str(code))
sys.exit(code)
"""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=writing, stderr=writing, cwd=tmp_path, timeout=300, check=False
        )
    finally:
        os.close(writing)
    assert late.read_text() == "141"
    assert done.returncode == 141
    if words == RUN:  # it went on
        assert (tmp_path / "run/scores.json").exists()
        assert (tmp_path / "run/report.html").exists()
