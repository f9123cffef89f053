"""The compiled form of `kernels/`: made once with the machine's own C compiler, kept in the user's cache, found again
by content."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ...runtime.files import cache_folder, replacing
from ...runtime.progress import console
from ...runtime.provenance import cpuinfo

SOURCE = Path(__file__).with_name("kernels")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")
GAP = 16
"""GAP of shape.h."""


class Shape(ctypes.Structure):
    """`Shape` of shape.h."""

    _fields_ = [
        (name, ctypes.c_long)
        for name in ("images", "blocks", "height", "width", "inputs", "last", "group", "group_out", "threads")
    ]


class Flow(ctypes.Structure):
    """`Flow` of shape.h."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("source", "weight", "turned", "bias", "gamma", "beta", "z", "out")]


class Adjoint(ctypes.Structure):
    """`Adjoint` of shape.h."""

    _fields_ = [
        (name, ctypes.c_void_p)
        for name in ("a", "b", "to_a", "to_b", "below_a", "below_b", "gamma", "beta", "weight", "images")
    ]


def adjoint(**tensors: Tensor | None) -> Adjoint:
    """An Adjoint of these tensors, as `flow` makes a Flow."""
    return Adjoint(**{name: address(tensor) for name, tensor in tensors.items()})


def flow(**tensors: Tensor | None) -> Flow:
    """A Flow of these tensors, which must be contiguous where the kernels read them so, and outlive the call."""
    return Flow(**{name: address(tensor) for name, tensor in tensors.items()})


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers begin; None for none."""
    if tensor is None:
        return None
    return tensor.data_ptr()


def lanes(kernels: ctypes.CDLL) -> int:
    """Channels in a block, L in vectors.h: 16, 8 or 4, as many as a register of this processor holds."""
    return ctypes.c_long.in_dll(kernels, "lanes").value


class KernelError(RuntimeError):
    """The kernels cannot be made on this machine; its text says why."""


@cache
def library() -> ctypes.CDLL | None:
    """The kernels, or None, said once, where they cannot be made."""
    try:
        return make()
    except KernelError as error:
        _say(str(error))
        return None


def identity() -> str:
    """A name of the kernels that changes with their content, the compiler and the processor; nothing where there are
    none."""
    kernels = library()
    if kernels is None:
        return ""
    return Path(kernels._name).stem


def make() -> ctypes.CDLL:
    """The kernels, from the cache or compiled; `$CC` names the compiler, else cc, gcc or clang is looked for. Raises
    KernelError."""
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise KernelError("there is no C compiler; install gcc, or set CC")
    try:
        return _typed(ctypes.CDLL(str(_built(shlex.split(compiler)))))
    except subprocess.CalledProcessError as error:
        raise KernelError(
            f"{compiler} ended with code {error.returncode}: {' '.join(error.stderr.split())[:200]}"
        ) from error
    except OSError as error:
        raise KernelError(str(error)) from error


def _say(cause: str) -> None:
    text = (
        f"The fast CPU kernels could not be made ({cause}), so torch's own are used, which take several times as long."
    )
    console().print(text, style="yellow", markup=False, highlight=False)


def _built(compiler: list[str]) -> Path:
    """The shared library in the cache; its name holds everything that decides its content."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
    texts = [path.read_text(encoding="utf-8") for path in sorted(SOURCE.iterdir()) if path.suffix in (".c", ".h")]
    parts = (*texts, *compiler, version, platform.machine(), _processor(), *FLAGS)
    path = cache_folder() / "kernels" / f"{hashlib.sha256(chr(31).join(parts).encode()).hexdigest()[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            # The OpenMP runtime that torch has loaded already is found by its name, so that both share one pool of
            # threads.
            command = [*compiler, *FLAGS, "-o", str(temporary), *map(str, sorted(SOURCE.glob("*.c")))]
            subprocess.run(command, capture_output=True, text=True, check=True)
    return path


def _processor() -> str:
    """What `-march=native` depends on: a cache folder may be shared between machines."""
    return f"{torch.backends.cpu.get_cpu_capability()} {platform.processor()} {cpuinfo('flags', 'Features')}"


def _typed(kernels: ctypes.CDLL) -> ctypes.CDLL:
    """The library with the types of its functions declared, so that addresses are not cut to 32 bits."""
    shape, flows, pointer = ctypes.POINTER(Shape), ctypes.POINTER(Flow), ctypes.c_void_p
    kernels.block_forward.argtypes, kernels.block_forward.restype = [shape, flows, flows, pointer, ctypes.c_long], None
    for back in (kernels.block_back, kernels.first_block_back):
        back.argtypes, back.restype = [shape, flows, flows, pointer, ctypes.POINTER(Adjoint)], None
    kernels.kernel_forward.argtypes = [pointer, ctypes.c_long, ctypes.c_long, pointer, pointer]
    kernels.kernel_forward.restype = None
    kernels.kernel_back.argtypes, kernels.kernel_back.restype = [shape, *[pointer] * 6], None
    return kernels
