"""Pickles whose tensors lie in a file that several processes map: one copy in memory, however many there are."""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
from typing import IO, NamedTuple

import torch
from torch import Tensor

ALIGNED = 64
"""Bytes; where torch would put a tensor itself, so that kernels take the same path."""


class Place(NamedTuple):
    """Where a tensor lies."""

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def nameless_file() -> IO[bytes]:
    """An open file that is gone with the last process that has it.

    In memory where the system can, and not under /dev/shm, of which a container has 64 MB.
    """
    return os.fdopen(os.memfd_create("astdistill"), "w+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()


class TensorPickler(pickle.Pickler):
    """Pickles to `text`, and plain CPU tensors to `memory`, each once."""

    def __init__(self, text: IO[bytes], memory: IO[bytes]) -> None:
        super().__init__(text)
        self._memory, self._places = memory, dict[int, tuple[Place, Tensor]]()

    def persistent_id(self, obj: object) -> Place | None:
        if type(obj) is not Tensor or obj.device.type != "cpu" or obj.layout != torch.strided or obj.requires_grad or not obj.numel():
            return None
        if id(obj) not in self._places:
            self._places[id(obj)] = self._put(obj), obj  # kept alive, so that no other object gets its id
        return self._places[id(obj)][0]

    def _put(self, tensor: Tensor) -> Place:
        """Write the numbers in the order they have in memory: a channels-last tensor stays one."""
        order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
        if not tensor.permute(order).is_contiguous():
            tensor = tensor.contiguous()
            order = list(range(tensor.dim()))
        start = -(-self._memory.tell() // ALIGNED) * ALIGNED
        self._memory.seek(start)
        self._memory.write(tensor.permute(order).reshape(-1).view(torch.uint8).numpy().data)
        return Place(start, tensor.dtype, tuple(tensor.shape), tensor.stride())


class TensorUnpickler(pickle.Unpickler):
    """Reads them back, the tensors as views of the mapped file; what is written into one stays in this process."""

    def __init__(self, text: IO[bytes], handle: int) -> None:
        super().__init__(text)
        self._mapped = mmap.mmap(handle, 0, access=mmap.ACCESS_COPY) if os.fstat(handle).st_size else None

    def persistent_load(self, pid: Place) -> Tensor:
        assert self._mapped is not None
        flat = torch.frombuffer(self._mapped, dtype=pid.dtype, count=torch.Size(pid.shape).numel(), offset=pid.start)
        return flat.as_strided(pid.shape, pid.stride)
