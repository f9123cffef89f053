"""Jobs for workers, in a module that they can import; what they learn of their process is what the tests look at."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from astdistill.autodiff.dispatch import chosen, using
from astdistill.methods.segments import Perturbation
from astdistill.models.flat import FlatModel
from astdistill.runtime.errors import DivergedError, InputError
from astdistill.runtime.files import lock
from astdistill.runtime.progress import Bar


def square(shared: Tensor, job: int, progress: Bar) -> tuple[float, int, int]:
    """job² times the sum of what is shared; the process, and its threads."""
    print("a user's network may print")
    for _ in range(job):
        progress.step(note=f"job {job}")
    return job**2 * float(shared.sum()), os.getpid(), torch.get_num_threads()


def engine(shared: str, job: int, progress: Bar) -> tuple[str, str | None]:
    """What this process computes with once it has been told, and what its environment says."""
    with using(shared):
        return chosen(), os.environ.get("ASTDISTILL_ENGINE")


class Odd(Exception):
    """Does not survive pickling."""

    def __init__(self, word: str, number: int) -> None:
        super().__init__(f"{word} {number}")


def fail(shared: object, job: str, progress: Bar) -> str:
    """Ends in one of the ways a job can."""
    if job == "input":
        raise InputError("lower --this")
    if job == "odd":
        raise Odd("odd", 7)
    if job == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "ends":
        os._exit(3)
    if job == "waits":
        signal.pause()
    return job


def echo(shared: object, job: tuple[str, str], progress: Bar) -> str:
    """What is common to all jobs, and the job."""
    return " ".join(map(str, job))


def unsendable(shared: object, job: str, progress: Bar) -> Callable[[], str]:
    """A result that cannot be pickled."""
    return lambda: job


def _unread() -> Unreadable:
    raise RuntimeError("unreadable here")


class Unreadable:
    """Is pickled, and raises when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[], Unreadable], tuple[()]]:
        return _unread, ()


def hold(shared: Path, job: int, progress: Bar) -> None:
    """Hold a lock until the process ends, and say so."""
    with lock(shared / f"{job}.lock", wait=True):
        progress.step(note="held")
        signal.pause()


def factory(channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
    """A user's network, at `jobs:factory`."""
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], 8), nn.ReLU(), nn.Linear(8, classes))


def dies_once(shared: Path, job: int, progress: Bar) -> int:
    """Ends its process in the middle the first time that job 0 is tried."""
    progress.step(3, note="before")
    tried = shared / "tried"
    if job == 0 and not tried.exists():
        tried.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    progress.step(2, note="after")
    return job


def own_engine() -> dict[str, str]:
    """An engine that no other process has."""
    return {"engine": f"of process {os.getpid()}"}


class Fateful(Perturbation):
    """Ends or raises in a process other than the one that hands out the work, from some outer step on, once."""

    folder: str = ""
    """Where a file says whose work it is, and another that it has happened."""
    what: str = "killed"

    def __call__(self, start: Tensor, model: FlatModel, generator: torch.Generator) -> Tensor:
        leader, done = (Path(self.folder) / name for name in ("leader", "done"))
        if leader.read_text() == str(os.getpid()) or done.exists() or generator.initial_seed() % 2:
            return start
        done.touch()
        if self.what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise {"input": InputError, "diverged": DivergedError}[self.what]("as it stands")
