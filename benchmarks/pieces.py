"""Long work in short pieces: a child process that is ended at a deadline, and a clock that adds up the seconds of all
pieces.

The parent imports nothing heavy, so that its deadline holds whatever the child does.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

STOPPED = 75
"""The exit code of a piece that was ended: EX_TEMPFAIL, try again."""
BEAT_SECONDS = 5.0


class Clock:
    """The start of each stage over all pieces, in `clock.jsonl`, one line per event, so that a kill loses at most the
    last few seconds.

    The first stage is the one that every piece begins with.
    """

    def __init__(self, out: Path, stages: Sequence[str]) -> None:
        self.path, self.stages = out / "clock.jsonl", stages

    def mark(self, event: str) -> None:
        """Record that a stage begins, that it is still running ("beat"), or that the piece is over ("stop")."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "at": time.time()}) + "\n")

    def _lines(self) -> list[dict[str, Any]]:
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            with contextlib.suppress(json.JSONDecodeError):  # a line cut short by a kill
                found.append(json.loads(line))
        return found

    @property
    def pieces(self) -> int:
        return sum(line["event"] == self.stages[0] for line in self._lines())

    def seconds(self) -> dict[str, float]:
        """Seconds spent in each stage; the time between two pieces is not counted."""
        spent = {stage: 0.0 for stage in self.stages}
        stage = self.stages[0]
        for line, following in pairwise(self._lines()):
            stage = line["event"] if line["event"] in spent else stage
            if following["event"] != self.stages[0]:
                spent[stage] += following["at"] - line["at"]
        return spent


class Stop(Exception):
    """SIGTERM or Ctrl-C: the piece ends now."""


@contextlib.contextmanager
def child(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the stages in their own process group, which is killed when the block ends, compile workers included."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=2)
        assert process.stdin is not None
        process.stdin.close()


def piece(command: list[str], clock: Clock, seconds: float) -> int:
    """Run the child for at most `seconds`; returns its exit code, or STOPPED if it was ended."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stop

    signal.signal(signal.SIGTERM, stop)
    deadline = time.monotonic() + seconds
    clock.mark(clock.stages[0])
    try:
        with child(command) as process:
            while (remaining := deadline - time.monotonic()) > 0:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(timeout=min(remaining, BEAT_SECONDS))
                clock.mark("beat")
    except (Stop, KeyboardInterrupt):
        pass
    finally:
        clock.mark("stop")
    return STOPPED


class Watch:
    """A thread of the child: records the peak of GPU memory, and ends the child when its parent has ended."""

    def __init__(self, out: Path, device: str, stage: str) -> None:
        self.path, self.cuda, self.stage = out / "peaks.json", device.startswith("cuda"), stage
        self.peaks: dict[str, dict[str, float]] = (
            json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        )
        threading.Thread(target=self._run, daemon=True).start()

    def enter(self, stage: str) -> None:
        """Reset the peak for a new stage."""
        self._record_peak()
        self.stage = stage
        if self.cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()

    def _run(self) -> None:
        while not select.select([sys.stdin], [], [], 1.0)[
            0
        ]:  # the parent writes nothing: readable means that it has ended
            self._record_peak()
        os._exit(1)

    def _record_peak(self) -> None:
        if not self.cuda:
            return
        import torch

        peak = torch.cuda.max_memory_allocated() / 2**20
        if peak > self.peaks.get(self.stage, {}).get("peak_gpu_mb", 0.0):
            self.peaks[self.stage] = {"peak_gpu_mb": round(peak, 1)}
            write(self.path, self.peaks)


def write(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
