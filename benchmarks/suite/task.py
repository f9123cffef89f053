"""Benches, the measurement of one repetition, and the limits of this machine that it is compared with."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch.nn import functional as F

from astdistill.runtime.config import Record

from .convnet_work import FLOAT, Net, Work, layer_work

TINY = Net(width=4, depth=2, size=8)
"""A small network for the tests."""


@dataclass(frozen=True)
class Rates:
    """The highest rates of this machine per second: of two kinds of arithmetic, and of copying."""

    convolution_gflops: float
    """A 3×3 convolution 128 → 128 at 16×16, batch 100, float32, channels-last."""
    matmul_gflops: float
    """A product of two 2048×2048 matrices."""
    copy_gbytes: float
    """A copy of 256 MiB, read and written bytes together."""

    @property
    def gflops(self) -> float:
        """The higher of the two arithmetic rates."""
        return max(self.convolution_gflops, self.matmul_gflops)

    def seconds(self, work: Work) -> float:
        """The lower bound on the seconds of `work`: the longer of computing and moving."""
        return max(work.operations / self.gflops, work.bytes / self.copy_gbytes) / 1e9

    def to_json(self) -> dict[str, float]:
        return asdict(self) | {"gflops": self.gflops}


def measured_rates(repeats: int = 5) -> Rates:
    """The rates of this machine with the threads that torch now has: the best of `repeats`, since a limit must
    not include disturbances."""
    images = torch.randn(100, 128, 16, 16).contiguous(memory_format=torch.channels_last)
    kernels = torch.randn(128, 128, 3, 3).contiguous(memory_format=torch.channels_last)
    matrix = torch.randn(2048, 2048)
    source = torch.zeros(2**26)
    target = torch.zeros_like(source)
    with torch.no_grad():
        convolution = _best(lambda: F.conv2d(images, kernels, padding=1), repeats)
        product = _best(lambda: matrix @ matrix, repeats)
        copy = _best(lambda: target.copy_(source), repeats)
    return Rates(
        layer_work(128, 128, 16, 9, 100).operations / convolution / 1e9,
        2 * 2048**3 / product / 1e9,
        2 * FLOAT * source.numel() / copy / 1e9,
    )


def best_of(several: list[Rates]) -> Rates:
    """The best of each rate."""
    return Rates(*(max(values) for values in zip(*(asdict(rates).values() for rates in several), strict=True)))


def _best(step: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of `repeats` calls, after one that warms up."""
    durations = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        step()
        durations.append(time.perf_counter() - began)
    return min(durations[1:])


PUBLISHED = "published"
"""The variant that the others are compared with."""
MAXRSS_PER_MB = 2**20 if sys.platform == "darwin" else 2**10


class Settings(Record):
    """Settings of all measurements of a call."""

    threads: int = Field(default=1, ge=1)
    """Cores that a variant may use, however it uses them best."""
    epochs: int | None = Field(default=None, ge=1)
    """Training epochs of `evaluate`, where they are to differ from the case's."""


class Request(Record):
    """One request to a separate process."""

    what: Literal["time", "cosine", "rates"]
    settings: Settings = Settings()
    bench: str = ""
    case: str = ""
    variants: tuple[str, ...] = ()
    """One for `time`, several for `cosine`."""


def nothing_more() -> dict[str, Any]:
    """No further figures."""
    return {}


@dataclass(frozen=True)
class Task:
    """One repetition: `warm` does a little of the same work first, `run` is timed, `after` returns further figures of
    the row."""

    warm: Callable[[], object]
    run: Callable[[], object]
    units: int = 1
    """Number of measured units of work in one `run`."""
    after: Callable[[], Mapping[str, Any]] = nothing_more


@dataclass(frozen=True)
class Bench:
    """A family of cases, and the variants that do the same work in each."""

    name: str
    text: str
    cases: tuple[str, ...]
    """Measured when no case is named."""
    others: tuple[str, ...]
    """Measured on request."""
    variants: tuple[str, ...]
    task: Callable[[str, str, Settings], Task]
    """(case, variant, settings) → one repetition."""
    work: Callable[[str, str, Settings], Work]
    """(case, variant, settings) → the operations and bytes of one unit."""
    cosine: Callable[[str, Sequence[str]], dict[str, dict[str, Any]]] | None = None
    """(case, variants) → for each variant, the cosine of its result with the published one in float64."""

    hidden: tuple[str, ...] = ("tiny",)
    """Cases for the tests only."""


def measure(task: Task) -> dict[str, Any]:
    """Seconds of one unit, and the peak of memory in MB above that of this process just before its first warm-up."""
    idle = high_water_mb()
    task.warm()
    began = time.perf_counter()
    task.run()
    seconds = time.perf_counter() - began
    return {"seconds": seconds / task.units, "peak_mb": high_water_mb() - idle, **task.after()}


def high_water_mb() -> float:
    """The highest resident size of this process so far, in MB of 2^20 bytes."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    # Preferred, because ru_maxrss is inherited on Linux: a process starts with the peak of the one that started it.
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MAXRSS_PER_MB


def largest_worker_mb() -> float:
    """The peak of the largest process that this one has started and outlived, including its idle memory; 0 where there
    was none."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / MAXRSS_PER_MB
