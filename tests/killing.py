"""A job that is killed (SIGKILL) and started again, several times, and at last left to end: `python killing.py JOB
KILLS SEED`.

JOB is a Python file with two functions: `run()`, and `progress()`, a number that grows while it runs. Every life of the
job is a fork of this process, so that torch is imported once. Prints the progress at each kill as a JSON list.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch


class Killed(BaseException):
    """Stands for a kill: nothing in the package catches it."""


@contextmanager
def killed_at_write(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[None]:
    """Every file is flushed to disk before it counts: stop at flush `number`, that is between any two of a training's
    writes."""
    flush, left = os.fsync, [number]

    def counted(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        flush(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", counted)
        yield


def killed(job: Path, kills: int, seed: int) -> list[int]:
    """Run JOB in a process of its own until it ends well; the progress at each kill."""
    words = [sys.executable, __file__, str(job), str(kills), str(seed)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _life(run: Callable[[], None]) -> int:
    """The process id of a new life of the job."""
    child = os.fork()
    if child:
        return child
    try:
        run()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _killed_at(child: int, progress: Callable[[], int], goal: int, delay: float) -> bool:
    """Wait until the job has come to `goal`, a moment longer, and kill it; False if it ended first."""
    while progress() < goal:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.0005)
    time.sleep(delay)
    if os.waitpid(child, os.WNOHANG)[0]:
        return False
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def main(path: str, kills: int, seed: int) -> None:
    job = runpy.run_path(path)
    torch.optim.SGD(
        [torch.zeros(1, requires_grad=True)]
    ).step()  # imports more of torch on first use: here, once for all lives
    chance, moments = random.Random(seed), []
    for _ in range(kills):
        goal = job["progress"]() + chance.randint(0, 3)
        if not _killed_at(_life(job["run"]), job["progress"], goal, chance.random() * 0.006):
            break
        moments.append(job["progress"]())
    _, status = os.waitpid(_life(job["run"]), 0)
    if status:
        sys.exit(1)
    print(json.dumps(moments))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
