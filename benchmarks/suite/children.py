"""Processes that a bench starts end with it, however it ends: each holds a pipe whose other end goes with the bench."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path


def paths_of_the_suite() -> str:
    """PYTHONPATH of a process that imports the suite and what this one can."""
    return os.pathsep.join(part for part in (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")) if part)


def run_in_group(words: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a process in a group of its own, which has `end_with_parent` called in it; at the end, by an exception too,
    no process of the group is left."""
    heard, held = os.pipe()
    process = subprocess.Popen(
        words,
        stdin=heard,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    os.close(heard)
    try:
        output, errors = process.communicate()
    finally:
        with suppress(ProcessLookupError, PermissionError):  # none is left; macOS says the latter of ended ones
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(held)
    return subprocess.CompletedProcess(words, process.returncode, output, errors)


def end_with_parent() -> None:
    """End this process and its group, at once, when the process at the other end of the standard input has ended."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    if os.getpgrp() == os.getpid():  # not where somebody runs it by hand
        threading.Thread(target=wait, daemon=True).start()


def ask_until_parent_ends(answer: Callable[[str], object]) -> None:
    """Call `answer` with every line of the standard input; end, in the middle of an answer too, when the input does."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        left = ""
        while read := os.read(0, 1024):
            *whole, left = (left + read.decode()).split("\n")
            for line in whole:
                lines.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        answer(lines.get())
