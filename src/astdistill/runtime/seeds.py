"""Stateless seeding: a generator is a function of a seed and a purpose, never of the clock or of what ran before.

So the draw for iteration 317 is the same whether or not iterations 0 to 316 ran in this process (cf. NVlabs/edm2).
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from .errors import InputError


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit integer that depends on `seed` and every item of `purpose`."""
    text = "\x1f".join([repr(seed), *map(repr, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def check_seed(seed: int) -> None:
    """Raise InputError for a seed that the files of a result could not hold."""
    if not -(2**63) <= seed < 2**64:
        raise InputError(f"seed={seed} was given; give a whole number from -2^63 to below 2^64, for example 0.")


def rng(seed: int, *purpose: str | int) -> torch.Generator:
    """A fresh CPU generator, for example `rng(0, "segment", iteration)`.

    It always lives on the CPU: the same numbers are drawn whatever device computes with them.

    Args:
        seed: The seed of the run, or of the object that numbers are drawn for.
        purpose: Words and numbers that distinguish this draw from all others.
    """
    return torch.Generator().manual_seed(derive(seed, *purpose))


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on the device that computes with it, without waiting for an accelerator to finish its work."""
    if torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


_LOCK = threading.RLock()
"""Held while a block draws from the generator that all threads share."""


def _replace_lock() -> None:
    global _LOCK
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows; another thread of the parent may hold it and never release it
    os.register_at_fork(after_in_child=_replace_lock)


class Draws:
    """Random numbers for code that can only draw from torch's global CPU generator, as dropout does."""

    def __init__(self, seed: int, *purpose: str | int) -> None:
        self._state = rng(seed, *purpose).get_state()

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Let the global generator give the numbers that follow those of the last such block, and restore its state
        afterwards.

        One thread at a time: the block must not wait for another thread that builds a network or draws. Threads that
        draw from the global generator outside of such blocks are not held off.
        """
        with _LOCK, torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._state)
            try:
                yield
            finally:
                self._state = torch.get_rng_state()


def seeded(seed: int, *purpose: str | int) -> AbstractContextManager[None]:
    """A block that draws from torch's global CPU generator (module initialisers), as in `Draws.drawn`."""
    return Draws(seed, *purpose).drawn()
