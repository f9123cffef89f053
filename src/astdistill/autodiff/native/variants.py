"""Compilation of the kernels, and the instruction sets that they are compiled for.

Used by the package, and by `hatch_build.py` for the wheel, where neither torch nor the package is installed: this file
imports only the standard library.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("kernels")
BUNDLED = Path(__file__).with_name("built")
"""The kernels of a wheel; a source checkout has no such folder."""
FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC")


@dataclass(frozen=True)
class Variant:
    """The kernels for one instruction set."""

    name: str
    instructions: str
    flags: tuple[str, ...] = ()


# Instruction sets by name, not -march=native: on AVX-512 that gives the same bits at the same speed, and for Zen 3 gcc
# splits multiply-adds, which costs a sixth (benchmarks/NOTES.md). Torch is compiled for the same sets.
AVX2 = "-mavx2", "-mfma"
X86 = (
    Variant("avx512", "AVX-512", (*AVX2, "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq")),
    Variant("avx2", "AVX2", AVX2),
    Variant("sse", "SSE"),
)
VARIANTS = {"x86_64": X86, "amd64": X86, "aarch64": (Variant("neon", "NEON"),), "arm64": (Variant("neon", "NEON"),)}
"""By the lower-case name of the machine; any other machine has `PLAIN`."""
PLAIN = Variant("plain", "plain C")


def variants(machine: str) -> tuple[Variant, ...]:
    """The variants for a machine, such as `platform.machine()`: the widest first."""
    return VARIANTS.get(machine.lower(), (PLAIN,))


def find_compiler() -> list[str] | None:
    """The C compiler as arguments of a command: `$CC`, else cc, gcc or clang; None if there is none."""
    command = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    return shlex.split(command) if command else None


def compiler_version(compiler: list[str]) -> str:
    """The output of `cc --version`. Raises OSError and subprocess.CalledProcessError."""
    return subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout


def compile_kernels(compiler: list[str], variant: Variant, to: Path) -> None:
    """Compile the shared library `to`. Raises OSError and subprocess.CalledProcessError.

    If possible, it is not linked to an OpenMP runtime: its calls go to the one that torch has loaded, so that both
    share one pool of threads (`share_openmp` in build.py)."""
    compile_flags, link_flags = _openmp_flags(compiler)
    with tempfile.TemporaryDirectory(prefix="astdistill-") as folder:
        sources = [str(path.resolve()) for path in sorted(SOURCE.glob("*.c"))]
        command = [*compiler, *FLAGS, *variant.flags, *compile_flags, "-c", *sources]
        subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        objects = [str(path) for path in sorted(Path(folder).glob("*.o"))]
        command = [*compiler, "-shared", *link_flags, "-o", str(to.resolve()), *objects]
        subprocess.run(command, capture_output=True, text=True, check=True)


def _openmp_flags(compiler: list[str]) -> tuple[list[str], list[str]]:
    """Flags for compiling and for linking."""
    if sys.platform == "darwin":  # Apple's clang has OpenMP only through -Xclang
        return ["-Xclang", "-fopenmp"], ["-undefined", "dynamic_lookup"]
    if "clang" in compiler_version(compiler):  # clang calls its own runtime, which torch may not have loaded
        return ["-fopenmp"], ["-fopenmp"]
    return ["-fopenmp"], []


def named_by_content(folder: Path, label: str, content: bytes) -> Path:
    """The path of a library whose name holds the digest of its bytes, so that a mismatch is detected."""
    return folder / f"{label}-{hashlib.sha256(content).hexdigest()}.so"


def is_intact(path: Path) -> bool:
    """Whether the bytes of a library match the digest in its name. Raises OSError."""
    return path == named_by_content(path.parent, path.name.rpartition("-")[0], path.read_bytes())
