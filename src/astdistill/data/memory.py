"""Where the images of a data set are kept: by their size and the machine's memory, unless the user says."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import torch

Residence = Literal["float32", "uint8", "disk"]
"""Preprocessed in memory; as bytes in the device's memory, preprocessed batch by batch; as bytes in a file."""
LIMIT = Path("/sys/fs/cgroup/memory.max")
SHARE = 0.3
"""Of all memory, for images: workers are given a copy, and networks need the rest."""


def residence(memory: str, images: int, shape: Sequence[int], whiten: str, device: str | torch.device) -> Residence:
    """Where `images` images of one shape (channels, height, width) are kept: as `memory` says, or for 'auto' where they fit.

    On an accelerator bytes come first, since subtracting a mean there costs nothing; but ZCA is a D×D product for each image, and is kept
    done where that fits. What fits goes by the memory that the machine has, and not by what is free, which would make a resumed run
    compute in another way than the one it goes on with.
    """
    if memory == "float32" or memory == "uint8" or memory == "disk":
        return memory
    pixels, on_cuda = images * math.prod(shape), torch.device(device).type == "cuda"
    room = SHARE * (_cuda_bytes(device) if on_cuda else host_bytes())
    if (not on_cuda or whiten == "zca") and 4 * pixels <= room:
        return "float32"
    return "uint8" if pixels <= room else "disk"


def held_bytes(where: Residence, images: int, shape: Sequence[int]) -> int:
    """Memory that the images take there."""
    return {"float32": 4, "uint8": 1, "disk": 0}[where] * images * math.prod(shape)


def _cuda_bytes(device: str | torch.device) -> int:
    """The memory of a graphics card; this machine's where an estimate is asked for a card that is not there."""
    return torch.cuda.get_device_properties(device).total_memory if torch.cuda.is_available() else host_bytes()


def host_bytes() -> int:
    """The memory of this machine, or of the container that we are in. Where no system call tells, it counts as 8 GiB."""
    known = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 8 << 30
    with suppress(OSError, ValueError):  # no such file, and 'max' where there is no limit
        found = min(found, int(LIMIT.read_text(encoding="ascii")))
    return found
