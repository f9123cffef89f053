"""A job that is killed (SIGKILL) and started again, several times, and at last left to end: `python killing.py JOB
KILLS SEED`.

JOB is a Python file with two functions: `run()`, and `progress()`, a number that grows while it runs. Every life of the
job is a fork of this process, so that torch is imported once, and ends itself at a flush to disk or a step of its bar
whose number is drawn. Prints the progress at each kill as a JSON list.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from astdistill.runtime.progress import Bar


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


def killed(job: Path, kills: int, seed: int, most: int = 20) -> list[int]:
    """Run JOB in a process of its own until it ends well, killed after at most so many flushes and steps; the progress
    at each kill."""
    words = [sys.executable, __file__, str(job), *map(str, (kills, seed, most))]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _life(run: Callable[[], None], moments: int | None) -> int:
    """A new life of the job, killed after so many flushes and steps; the signal that ended it, or 0."""
    child = os.fork()
    if not child:
        if moments is not None:
            _killed_after(moments)
        try:
            run()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit(1)
    return os.WTERMSIG(status)


def _killed_after(moments: int) -> None:
    left = [moments]

    def counted(act: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*given: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return act(*given, **named)

        return wrapped

    os.fsync = counted(os.fsync)
    Bar.step = counted(Bar.step)


def main(path: str, kills: int, seed: int, most: int) -> None:
    job = runpy.run_path(path)
    # imports more of torch on first use: here, once for all lives
    torch.optim.SGD([torch.zeros(1, requires_grad=True)]).step()
    chance, progress = random.Random(seed), []
    for _ in range(kills):
        if not _life(job["run"], chance.randint(most // 4, most)):
            break
        progress.append(job["progress"]())
    _life(job["run"], None)
    print(json.dumps(progress))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
