"""The origin of a result: versions, commit and machine, without the paths of its author."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from functools import cache
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

from .machine import Named, cores

DIVIDED = "threads_of_workers"
"""The key, in the description of a machine, of the threads that workers divide among them, if a step in the process has
fewer."""
PACKAGES = ("astdistill", "torch", "numpy", "safetensors", "datasets", "scikit-learn", "pydantic")


def provenance(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Versions, commit, hardware and arguments of this process, for the file that accompanies a result."""
    return {
        "python": platform.python_version(),
        "versions": dict(versions()),
        "commit": _commit(),
        "machine": machine(device),
        "arguments": sys.argv,
    }


@cache
def versions() -> dict[str, str]:
    """The versions of the packages that results and their speed depend on."""
    return {name: version for name in PACKAGES if (version := version_of(name)) is not None}


def machine(device: str | torch.device = "cpu") -> dict[str, Any]:
    """The machine that results were measured on: processor, cores that this process may use, threads, memory,
    accelerator; and the threads that workers divide among them, if a step in this process has fewer."""
    import torch  # takes a second, and reading saved records does not need it

    memory, threads = 0, torch.get_num_threads()
    if hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        **processor_model(),
        "instructions": instructions(),
        "cores": cores(),
        "threads": threads,
        **({DIVIDED: Named.threads} if Named.threads not in (None, threads) else {}),
        "memory_gib": round(memory / 2**30, 1),
        "accelerator": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None,
    }


def version_of(name: str) -> str | None:
    """The version of an installed package; None for one that is not."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpuinfo(*names: str) -> str:
    """The first line of /proc/cpuinfo that begins with one of the names; '' if there is none, or no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(names)), "")


def instructions() -> str:
    """The widest vector instructions that torch uses here: AVX-512, AVX2, SSE, NEON, or what torch calls them.

    `$ATEN_CPU_CAPABILITY` (avx2, default) makes torch, and so the kernels, take narrower ones.
    """
    import torch  # here as in `machine`

    capability = torch.backends.cpu.get_cpu_capability()
    plain = {"x86_64": "SSE", "amd64": "SSE", "aarch64": "NEON", "arm64": "NEON"}
    return {"AVX512": "AVX-512", "AVX2": "AVX2"}.get(capability) or plain.get(platform.machine().lower(), capability)


def processor() -> str:
    """The processor's name, if the system reports it."""
    return cpuinfo("model name").partition(":")[2].strip() or platform.processor() or platform.machine()


def processor_model() -> dict[str, str]:
    """Family and model number of an x86 processor, if the system reports them. Virtual machines often hide the rest:
    "AMD EPYC" may be one that computes with AVX-512 twice as fast as with AVX2, or just as fast."""
    family, model = (cpuinfo(name).partition(":")[2].strip() for name in ("cpu family", "model\t"))
    return {"processor_model": f"family {family}, model {model}"} if family and model else {}


@cache
def _commit() -> str | None:
    """The commit of the source tree that tracks this package; None if none does, as for an installed wheel."""
    source = Path(__file__).resolve()
    commands = (["ls-files", "--error-unmatch", source.name], ["describe", "--always", "--dirty", "--abbrev=12"])
    try:
        results = [
            subprocess.run(["git", *each], cwd=source.parent, capture_output=True, text=True, check=True, timeout=10)
            for each in commands
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return results[-1].stdout.strip() or None


PRIVATE_PATH = re.compile(
    r"(?P<flag>[\w.-]+=|[\w-]{2,}:(?!//))?(?P<path>(?:[A-Za-z]:)?[\\/].*|~.*|\.\.[\\/].*)", re.DOTALL
)
"""A path that starts at the root, at a home folder or above the current folder, alone or after `--flag=` or `kind:`;
relative paths inside the current folder do not match."""


def without_places(value: Any) -> Any:
    """The JSON-ready value with every such path replaced by the name of its file or folder."""
    if isinstance(value, dict):
        return {name: without_places(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(inner) for inner in value]
    if isinstance(value, str) and (match := PRIVATE_PATH.fullmatch(value)):
        return (match["flag"] or "") + base_name(match["path"])
    return value


def base_name(path: str) -> str:
    """The last part of a path, of any operating system."""
    return PureWindowsPath(path).name


def display_path(folder: Path) -> str:
    """A folder as a page may name it: its path relative to the current folder, or its name alone if it lies
    elsewhere."""
    current, resolved = Path.cwd(), folder.resolve()
    if resolved.is_relative_to(current):
        return resolved.relative_to(current).as_posix()
    return resolved.name
