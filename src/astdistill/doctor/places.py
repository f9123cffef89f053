"""Memory, disks, and the data sets that lie on this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..data.sources import HUB
from ..experiment import ExpertSettings
from ..progress import size
from ..runs import cache_folder
from ..workers.crew import cores
from .findings import Finding, shortened

LEAST = 10**9
"""Bytes of free memory, and of free disk, below which even small runs fail."""
LIMITS = (("memory.max", "memory.current", "inactive_file"), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"))
"""Limit, use and reclaimable cache in control groups of version 2 and 1."""


def memory() -> Iterator[Finding]:
    """Cores, and the memory that this process may still take."""
    free = free_memory()
    if free is None:
        yield Finding(name="memory", state="note", text=f"{cores()} cores; this system does not say how much memory is free")
        return
    advice = "" if free >= LEAST else "close other programs, or raise the container's limit"
    text = f"{size(free)} free, {cores()} cores that this process may use"
    yield Finding(name="memory", state="bad" if advice else "good", text=text, advice=advice)


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still allocate: what the machine has available, or less where its control group says so."""
    found = _group_memory(root)
    with suppress(OSError, ValueError, StopIteration):
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    return max(0, min(found)) if found else None


def _group_memory(root: Path) -> list[int]:
    """What is left below the limit of each control group that this process is in, the groups around it included."""
    left = []
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            controllers, path = line.split(":", 2)[1:]
            if controllers and "memory" not in controllers.split(","):
                continue
            base = root / "sys/fs/cgroup" / ("memory" if controllers else "")
            inner = base / path.lstrip("/")
            groups = [inner, *(place for place in inner.parents if place.is_relative_to(base))]
            left += [found for group in groups if (found := _left(group)) is not None]
    return left


def _left(group: Path) -> int | None:
    for limit, use, cached in LIMITS:
        with suppress(OSError, ValueError):  # no such file, and 'max' where there is no limit
            allowed, taken = (int((group / name).read_text(encoding="ascii")) for name in (limit, use))
            stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
            return allowed - taken + int(stat.get(cached, 0))
    return None


def disks() -> Iterator[Finding]:
    """Room and permission where runs, experts and the cache are written."""
    wanted = {"disk, runs": Path.cwd(), "disk, experts": ExpertSettings().store.absolute(), "disk, cache": cache_folder().absolute()}
    for name, place in wanted.items():
        there = next(folder for folder in (place, *place.parents) if folder.exists())
        held = f"; the cache holds {size(_held(place))}" if name == "disk, cache" and place.is_dir() else ""
        free = shutil.disk_usage(there).free
        text = f"{size(free)} free at {place}{held}"
        if not there.is_dir():
            yield Finding(name=name, state="bad", text=f"{there} is a file, not a folder", advice="move it away")
        elif not os.access(there, os.W_OK | os.X_OK):
            yield Finding(name=name, state="bad", text=f"{there} cannot be written to", advice=_elsewhere(name))
        else:
            yield Finding(name=name, state="good" if free >= LEAST else "bad", text=text, advice="" if free >= LEAST else _elsewhere(name))


def _elsewhere(name: str) -> str:
    others = {
        "disk, cache": "set ASTDISTILL_CACHE to a folder elsewhere",
        "disk, experts": "name one elsewhere with --experts.store FOLDER",
    }
    return others.get(name, "free some space, or name one elsewhere with --out FOLDER")


def _held(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def data(network: bool) -> Iterator[Finding]:
    """Named sets in the folder `ASTDISTILL_DATA`, and, if asked for, whether the hub answers."""
    root = os.environ.get("ASTDISTILL_DATA")
    if not root:
        advice = "set ASTDISTILL_DATA to a folder with cifar100/ and others in it, or let the hub be asked"
        yield Finding(name="data", state="note", text="ASTDISTILL_DATA is not set; digits need nothing", advice=advice)
    elif not (folder := Path(root).expanduser()).is_dir():
        text = f"ASTDISTILL_DATA names {folder}, which is no folder"
        yield Finding(name="data", state="bad", text=text, advice="correct it, or unset it to let the hub be asked")
    else:
        found = [name for name in (*HUB, "imagenet") if (folder / name).is_dir()]
        text = f"{', '.join(found)} in {folder}" if found else f"none of {', '.join((*HUB, 'imagenet'))} is in {folder}"
        yield Finding(name="data", state="good" if found else "note", text=text)
    if network:
        yield _hub()


def _hub() -> Finding:
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(HUB["cifar10"], timeout=10)
    except Exception as error:  # huggingface_hub and its HTTP client raise a dozen unrelated types
        text = f"the Hugging Face hub does not answer ({type(error).__name__}: {shortened(str(error), 120)})"
        return Finding(name="network", state="note", text=text, advice="use local copies: --data FOLDER, or ASTDISTILL_DATA")
    return Finding(name="network", state="good", text="the Hugging Face hub answers")
