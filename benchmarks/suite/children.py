"""Processes that end with the bench that started them, however it ends: each reads a pipe that closes with the
bench."""

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
    """PYTHONPATH of a process that can import the suite and all that this process can import."""
    return os.pathsep.join(part for part in (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")) if part)


def run_in_group(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a process, which must call `end_with_parent`, in its own process group; no process of the group is left at
    the end, nor after an exception."""
    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        command,
        stdin=read_end,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    os.close(read_end)
    try:
        output, errors = process.communicate()
    finally:
        with suppress(ProcessLookupError, PermissionError):  # none is left; macOS raises the latter for ended processes
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(write_end)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def end_with_parent() -> None:
    """End this process and its group, at once, when the process at the other end of the standard input has ended."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    if os.getpgrp() == os.getpid():  # not when it is run by hand
        threading.Thread(target=wait, daemon=True).start()


def ask_until_parent_ends(answer: Callable[[str], object]) -> None:
    """Call `answer` with every line of the standard input; end when the input ends, also in the middle of an answer."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        partial = ""
        while read := os.read(0, 1024):
            *complete, partial = (partial + read.decode()).split("\n")
            for line in complete:
                lines.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        answer(lines.get())
