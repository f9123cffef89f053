"""What autograd keeps alive during a step, weighed by hooks."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor


def saved_bytes(step: Callable[[], object]) -> int:
    """The most bytes that graphs keep alive at once during a step, each storage counted once."""
    alive: dict[int, int] = {}
    ledger = {"now": 0, "peak": 0}

    def release(address: int, count: int) -> None:
        alive[address] -= 1
        ledger["now"] -= 0 if alive[address] else count

    def keep(tensor: Tensor) -> _Saved:
        storage = tensor.untyped_storage()
        address, count = storage.data_ptr(), storage.nbytes()
        ledger["now"] += 0 if alive.get(address) else count
        ledger["peak"] = max(ledger["peak"], ledger["now"])
        alive[address] = alive.get(address, 0) + 1
        saved = _Saved(tensor)
        weakref.finalize(saved, release, address, count)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved.tensor):
        step()
    return ledger["peak"]


class _Saved:
    """A tensor that a graph has saved; it goes when the graph goes."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
