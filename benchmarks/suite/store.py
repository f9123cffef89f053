"""Reading three rows of a trajectory: the whole file as published, and only those rows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from astdistill.experts.recipe import ExpertRecipe
from astdistill.experts.store import StoreIdentity, TrajectoryStore
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime.files import save_tensors
from astdistill.runtime.seeds import rng

from . import published
from .convnet_work import FLOAT, Net, Work
from .task import PUBLISHED, TINY, Bench, Settings, Task

LENGTH = 2
"""M: a segment is M + 1 rows."""


class Case(NamedTuple):
    """A trajectory, and how often it is read."""

    rows: int = 51
    net: Net = Net()
    reads: int = 20

    @property
    def parameters(self) -> int:
        return FlatModel(build_model(self.net.name, self.net.shape, self.net.classes)).size


CASES = {"rows51": Case(), "tiny": Case(5, TINY, 2)}


def task(name: str, variant: str, settings: Settings) -> Task:
    """Read random segments with a warm cache: the file was just written and its first read is not counted."""
    case = CASES[name]
    temporary = tempfile.TemporaryDirectory()  # its folder lives as long as the task
    starts = torch.randint(case.rows - LENGTH, (case.reads,), generator=rng(0, "bench")).tolist()
    prepared = _Published(Path(temporary.name), case) if variant == PUBLISHED else _Ours(Path(temporary.name), case)

    def after() -> dict[str, Any]:
        touched = prepared.touched()
        temporary.cleanup()
        return {"bytes": touched}

    def read() -> None:
        for start in starts:  # each segment is released before the next is read, as between outer steps
            prepared.read(start)

    return Task(lambda: prepared.read(0), read, units=case.reads, after=after)


class _Published:
    """One `torch.save` of lists of parameter tensors."""

    def __init__(self, folder: Path, case: Case) -> None:
        self.path = folder / "buffer.pt"
        shapes = [parameter.shape for parameter in published.convnet(case.net).parameters()]
        generator = rng(0, "rows")
        rows = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(case.rows)]
        published.save_experts(self.path, [rows])

    def read(self, epoch: int) -> Tensor:
        return published.load_segment(self.path, 0, epoch, LENGTH)

    def touched(self) -> int:
        """All bytes of the file."""
        return self.path.stat().st_size


class _Ours:
    """A store with one expert."""

    def __init__(self, folder: Path, case: Case) -> None:
        identity = StoreIdentity(
            recipe=ExpertRecipe(epochs=case.rows - 1),
            model=case.net.name,
            parameters=case.parameters,
            shape=case.net.shape,
            classes=tuple(map(str, range(case.net.classes))),
            fingerprint="random",
            preprocessing="none",
        )
        self.store = TrajectoryStore(folder, identity)
        save_tensors(self.store.path(0), {"rows": torch.randn(case.rows, case.parameters, generator=rng(0, "rows"))})

    def read(self, epoch: int) -> object:
        return self.store.segment(0, epoch, LENGTH)

    def touched(self) -> int:
        """The bytes of the slices that one more read requests."""
        counting = Counting(self.store.path(0))
        TrajectoryStore(self.store.folder, self.store.identity, _open={0: counting}).segment(0, 0, LENGTH)
        return counting.bytes


class Counting:
    """An open trajectory file that counts the bytes of the slices taken from it."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, framework="pt").__enter__()
        self.bytes = 0

    def get_slice(self, name: str) -> Counting:
        self._slice = self._file.get_slice(name)
        return self

    def get_shape(self) -> list[int]:
        return self._slice.get_shape()

    def __getitem__(self, rows: slice) -> Tensor:
        found: Tensor = self._slice[rows]
        self.bytes += found.numel() * found.element_size()
        return found


def work(name: str, variant: str, settings: Settings) -> Work:
    """The bytes that the variant requests, read once and written once."""
    case = CASES[name]
    rows = case.rows if variant == PUBLISHED else LENGTH + 1
    return Work(bytes=2 * FLOAT * rows * case.parameters)


BENCH = Bench(
    "store",
    "reading three rows of a trajectory of 51 × 320,010, warm",
    ("rows51",),
    (),
    (PUBLISHED, "ours"),
    task,
    work,
)
