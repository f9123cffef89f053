"""What autograd keeps alive during a step, weighed by hooks; and what torch allocates."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


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


def most_allocated(step: Callable[[], object]) -> int:
    """The most bytes that torch has allocated at once for a step, work space of its own included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    results: Any = profiler.profiler
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    assert events
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


class _Saved:
    """A tensor that a graph has saved; it goes when the graph goes."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
