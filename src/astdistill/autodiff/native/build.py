"""The compiled form of `kernels/`: that of the wheel, or made once with the machine's own C compiler and kept in the
user's cache. No library is loaded whose bytes are not those that its name says, or that another user could have
written."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

import torch
from threadpoolctl import threadpool_info
from torch import Tensor

from ...runtime.files import cache_folder
from ...runtime.progress import console
from ...runtime.provenance import instructions
from .variants import (
    BUNDLED,
    FLAGS,
    SOURCE,
    Variant,
    compile_kernels,
    compiler_version,
    find_compiler,
    named_by_content,
    variants,
    whole,
)

GAP = 16
"""GAP of shape.h."""


class Shape(ctypes.Structure):
    """`Shape` of shape.h."""

    _fields_ = [
        (name, ctypes.c_long)
        for name in ("images", "blocks", "height", "width", "inputs", "last", "groups", "groups_out", "threads")
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


ADVICE = "install gcc or clang, or a wheel of astdistill that holds the kernels"
"""What to do where the kernels cannot be had."""


@cache
def library() -> ctypes.CDLL | None:
    """The kernels, or None, said once, where they cannot be made."""
    try:
        return make()
    except KernelError as error:
        text = f"torch's own derivatives are used, which take several times as long: {error}; {ADVICE}."
        console().print(text, style="yellow", markup=False, highlight=False)
        return None


def make(variant: Variant | None = None) -> ctypes.CDLL:
    """The kernels for this processor, or of a narrower variant: those of the wheel, else from the cache, else compiled;
    `$CC` names the compiler, else cc, gcc or clang is looked for. Raises KernelError."""
    variant = variant or for_this_processor()
    share_openmp()
    return _of_the_wheel(variant) or _of_the_cache(variant)


def for_this_processor() -> Variant:
    """The variant of the instruction set that torch has chosen, too."""
    able = variants(platform.machine())
    return next((each for each in able if each.instructions == instructions()), able[-1])


def described(kernels: ctypes.CDLL) -> str:
    """The instruction set of these kernels and where they come from, for people."""
    path = Path(kernels._name)
    named = {variant.name: variant.instructions for variant in variants(platform.machine())}
    origin = "compiled here"
    if path.parent == BUNDLED:
        origin = "of the wheel"
    elif path.parent != cache_folder() / "kernels":
        origin = f"compiled for this process alone, as {cache_folder() / 'kernels'} is not this user's own"
    return f"{named[path.name.partition('-')[0]]} kernels {origin}"


def share_openmp() -> None:
    """Make the functions of torch's OpenMP runtime visible to libraries that are loaded from now on.

    They are already where torch loads its libraries for all, as it does on Linux and macOS; a second runtime would have
    a second pool of threads.
    """
    if any(hasattr(ctypes.CDLL(None), name) for name in ("GOMP_parallel", "__kmpc_fork_call")):
        return
    loaded = [each["filepath"] for each in threadpool_info() if each["user_api"] == "openmp"]
    of_torch = Path(torch.__file__).parent
    for path in sorted(loaded, key=lambda path: not Path(path).is_relative_to(of_torch))[:1]:
        ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)


def _of_the_wheel(variant: Variant) -> ctypes.CDLL | None:
    """None where there is no such one, or it is damaged or made for another system."""
    for path in BUNDLED.glob(f"{variant.name}-*.so"):
        try:
            if whole(path):
                return _typed(ctypes.CDLL(str(path)))
        except OSError:
            continue
    return None


def _of_the_cache(variant: Variant) -> ctypes.CDLL:
    compiler = find_compiler()
    if compiler is None:
        raise KernelError("there is no C compiler here, and this installation holds no kernels")
    try:
        return _found_or_built(compiler, variant)
    except subprocess.CalledProcessError as error:
        text = f"{' '.join(compiler)} ended with code {error.returncode}: {' '.join(error.stderr.split())[:200]}"
        raise KernelError(text) from error
    except OSError as error:
        raise KernelError(str(error)) from error


def _found_or_built(compiler: list[str], variant: Variant) -> ctypes.CDLL:
    """From the cache, where it is safe and whole; else built into the cache, or for this process alone where others
    could write to it."""
    label, folder = _label(compiler, variant), cache_folder() / "kernels"
    if not _secured(folder):
        return _for_this_process(compiler, variant, label)
    for path in sorted(folder.glob(f"{label}-*.so")):
        try:
            if _own(path) and whole(path):
                return _typed(ctypes.CDLL(str(path)))
        except OSError:  # another process has just removed it, or it is no library
            continue
        path.unlink(missing_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        return _for_this_process(compiler, variant, label)
    return _typed(ctypes.CDLL(str(_built(compiler, variant, label, folder))))


def _label(compiler: list[str], variant: Variant) -> str:
    """A name that changes with all that decides the content; a cache folder may be shared between machines."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(SOURCE.iterdir()) if path.suffix in (".c", ".h")]
    parts = (*texts, *compiler, compiler_version(compiler), platform.machine(), *FLAGS, variant.name, *variant.flags)
    return f"{variant.name}-{hashlib.sha256(chr(31).join(parts).encode()).hexdigest()[:16]}"


def _for_this_process(compiler: list[str], variant: Variant, label: str) -> ctypes.CDLL:
    folder = Path(tempfile.mkdtemp(prefix="astdistill-kernels-"))
    try:
        return _typed(ctypes.CDLL(str(_built(compiler, variant, label, folder))))
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # what is loaded stays loaded


UNFINISHED = ".build-"
OLD_S = 3600


def _built(compiler: list[str], variant: Variant, label: str, folder: Path) -> Path:
    """The path of a new library in `folder`, which no other process sees before it is whole."""
    for left in folder.glob(f"{UNFINISHED}*"):  # by a process that was killed
        if time.time() - left.lstat().st_mtime > OLD_S:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED, ignore_cleanup_errors=True) as place:
        new = Path(place) / "new.so"
        compile_kernels(compiler, variant, new)
        new.chmod(0o644)  # whatever the umask lets others do
        path = named_by_content(folder, label, new.read_bytes())
        new.replace(path)
    return path


def _secured(folder: Path) -> bool:
    """Whether nobody but this user, and root, can write to the folder; it is made, or closed to others and emptied."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if not _own(folder) and not folder.is_symlink() and folder.stat().st_uid == os.geteuid():
            folder.chmod(folder.stat().st_mode & 0o755)
            for path in folder.glob("*.so"):  # whoever wrote it
                path.unlink()
        return _own(folder)
    except OSError:
        return False


def _own(path: Path) -> bool:
    """Whether a plain file or folder is this user's, or root's, and writable by its owner alone; true where the system
    does not know owners (Windows). Raises OSError."""
    if not hasattr(os, "geteuid"):
        return True
    status = path.lstat()
    plain = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    return plain and status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


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
