"""How much memory the run holds now."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from .words import size

try:
    import resource
except ImportError:
    resource = None

PROC = Path("/proc/self")
KILOBYTES = 1 if sys.platform == "darwin" else 1024
"""ru_maxrss counts bytes on macOS and kibibytes elsewhere."""


def resident() -> int:
    """Bytes in memory: this process, and of its workers what they do not share with it; where the system does not say, the peak so far."""
    try:
        own = _pages(PROC)[1]
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KILOBYTES if resource else 0
    for worker in _workers():
        with suppress(OSError, ValueError, IndexError):  # it may have ended meanwhile
            _, whole, shared, *_ = _pages(PROC.parent / worker)
            own += whole - shared
    return own * _page_size()


def accelerator_peak() -> int:
    """The most bytes that tensors have taken on CUDA devices; 0 where none is in use. The device is not waited for."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return sum(torch.cuda.max_memory_allocated(number) for number in range(torch.cuda.device_count()))


def described() -> str:
    """Both for a reader: '312 MB', or '1.4 GB, GPU peak 12.3 GB'."""
    peak = accelerator_peak()
    return size(resident()) + (f", GPU peak {size(peak)}" if peak else "")


def _pages(process: Path) -> list[int]:
    return [int(word) for word in (process / "statm").read_text(encoding="ascii").split()]


def _page_size() -> int:
    return resource.getpagesize() if resource else 4096


def _workers() -> list[str]:
    with suppress(OSError):
        return [word for task in (PROC / "task").iterdir() for word in (task / "children").read_text(encoding="ascii").split()]
    return []
