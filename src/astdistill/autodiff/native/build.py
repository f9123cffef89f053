"""Loads the compiled `kernels/`: those of the wheel, or built once with the C compiler of the machine and cached for
the user. No library is loaded whose bytes do not match the digest in its name, or that another user could have
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
    is_intact,
    named_by_content,
    variants,
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
    """An `Adjoint` with the addresses of these tensors; see `flow`."""
    return Adjoint(**{name: address(tensor) for name, tensor in tensors.items()})


def flow(**tensors: Tensor | None) -> Flow:
    """A `Flow` with the addresses of these tensors, which must be contiguous where the kernels expect it, and outlive
    the call."""
    return Flow(**{name: address(tensor) for name, tensor in tensors.items()})


def address(tensor: Tensor | None) -> int | None:
    """The address of the data of a tensor; None for None."""
    if tensor is None:
        return None
    return tensor.data_ptr()


def lanes(kernels: ctypes.CDLL) -> int:
    """Channels in a block, L in vectors.h: 16, 8 or 4, as many as a register of this processor holds."""
    return ctypes.c_long.in_dll(kernels, "lanes").value


class KernelError(RuntimeError):
    """The kernels cannot be built or loaded on this machine; the message has the reason."""


ADVICE = "install gcc or clang, or a wheel of astdistill that holds the kernels"
"""How to get the kernels."""


@cache
def library() -> ctypes.CDLL | None:
    """The kernels; None, with one printed message, if they cannot be built."""
    try:
        return make()
    except KernelError as error:
        text = f"torch's own derivatives are used, which take several times as long: {error}; {ADVICE}."
        console().print(text, style="yellow", markup=False, highlight=False)
        return None


def make(variant: Variant | None = None) -> ctypes.CDLL:
    """The kernels for this processor, or of a narrower variant: those of the wheel, else from the cache, else compiled;
    `$CC` names the compiler; by default it is cc, gcc or clang. Raises KernelError."""
    variant = variant or for_this_processor()
    share_openmp()
    return _load_bundled(variant) or _load_compiled(variant)


def for_this_processor() -> Variant:
    """The variant for the instruction set that torch uses too."""
    available = variants(platform.machine())
    return next((each for each in available if each.instructions == instructions()), available[-1])


def described(kernels: ctypes.CDLL) -> str:
    """A readable description of the kernels: their instruction set and origin."""
    path = Path(kernels._name)
    instruction_sets = {variant.name: variant.instructions for variant in variants(platform.machine())}
    origin = "compiled here"
    if path.parent == BUNDLED:
        origin = "of the wheel"
    elif path.parent != cache_folder() / "kernels":
        origin = f"compiled for this process alone, as {cache_folder() / 'kernels'} is not this user's own"
    return f"{instruction_sets[path.name.partition('-')[0]]} kernels {origin}"


def share_openmp() -> None:
    """Make the functions of torch's OpenMP runtime visible to libraries that are loaded later.

    They already are if torch loads its libraries globally, as on Linux and macOS; a second runtime would have a second
    pool of threads.
    """
    if any(hasattr(ctypes.CDLL(None), name) for name in ("GOMP_parallel", "__kmpc_fork_call")):
        return
    loaded = [each["filepath"] for each in threadpool_info() if each["user_api"] == "openmp"]
    torch_folder = Path(torch.__file__).parent
    for path in sorted(loaded, key=lambda path: not Path(path).is_relative_to(torch_folder))[:1]:
        ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)


def _load_bundled(variant: Variant) -> ctypes.CDLL | None:
    """The library of the wheel; None if it is missing, damaged or built for another system."""
    for path in BUNDLED.glob(f"{variant.name}-*.so"):
        try:
            if is_intact(path):
                return _declare_types(ctypes.CDLL(str(path)))
        except OSError:
            continue
    return None


def _load_compiled(variant: Variant) -> ctypes.CDLL:
    compiler = find_compiler()
    if compiler is None:
        raise KernelError("there is no C compiler here, and this installation holds no kernels")
    try:
        return _find_or_build(compiler, variant)
    except subprocess.CalledProcessError as error:
        text = f"{' '.join(compiler)} ended with code {error.returncode}: {' '.join(error.stderr.split())[:200]}"
        raise KernelError(text) from error
    except OSError as error:
        raise KernelError(str(error)) from error


def _find_or_build(compiler: list[str], variant: Variant) -> ctypes.CDLL:
    """The library in the cache, if it is secure and intact; else built into the cache, or for this process only if
    others can write to the cache."""
    label, folder = _label(compiler, variant), cache_folder() / "kernels"
    if not _secure_folder(folder):
        return _build_temporary(compiler, variant, label)
    for path in sorted(folder.glob(f"{label}-*.so")):
        try:
            if _is_private(path) and is_intact(path):
                return _declare_types(ctypes.CDLL(str(path)))
        except OSError:  # another process has just removed it, or it is no library
            continue
        path.unlink(missing_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        return _build_temporary(compiler, variant, label)
    return _declare_types(ctypes.CDLL(str(_build_into(compiler, variant, label, folder))))


def _label(compiler: list[str], variant: Variant) -> str:
    """A name that depends on everything that determines the content; machines may share a cache folder."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(SOURCE.iterdir()) if path.suffix in (".c", ".h")]
    parts = (*texts, *compiler, compiler_version(compiler), platform.machine(), *FLAGS, variant.name, *variant.flags)
    return f"{variant.name}-{hashlib.sha256(chr(31).join(parts).encode()).hexdigest()[:16]}"


def _build_temporary(compiler: list[str], variant: Variant, label: str) -> ctypes.CDLL:
    folder = Path(tempfile.mkdtemp(prefix="astdistill-kernels-"))
    try:
        return _declare_types(ctypes.CDLL(str(_build_into(compiler, variant, label, folder))))
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a loaded library stays loaded


UNFINISHED = ".build-"
OLD_S = 3600


def _build_into(compiler: list[str], variant: Variant, label: str, folder: Path) -> Path:
    """Build a library in `folder` and return its path; other processes see only the complete file."""
    for unfinished in folder.glob(f"{UNFINISHED}*"):  # left by a killed process
        if time.time() - unfinished.lstat().st_mtime > OLD_S:
            shutil.rmtree(unfinished, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED, ignore_cleanup_errors=True) as temporary:
        new = Path(temporary) / "new.so"
        compile_kernels(compiler, variant, new)
        new.chmod(0o644)  # independent of the umask
        path = named_by_content(folder, label, new.read_bytes())
        new.replace(path)
    return path


def _secure_folder(folder: Path) -> bool:
    """Whether only this user and root can write to the folder, which is created, or closed to others and emptied."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if not _is_private(folder) and not folder.is_symlink() and folder.stat().st_uid == os.geteuid():
            folder.chmod(folder.stat().st_mode & 0o755)
            for path in folder.glob("*.so"):  # another user may have written it
                path.unlink()
        return _is_private(folder)
    except OSError:
        return False


def _is_private(path: Path) -> bool:
    """Whether a regular file or folder belongs to this user or root, and only its owner can write to it; true on
    systems without owners (Windows). Raises OSError."""
    if not hasattr(os, "geteuid"):
        return True
    status = path.lstat()
    plain = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    return plain and status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _declare_types(kernels: ctypes.CDLL) -> ctypes.CDLL:
    """The library, with the types of its functions declared, so that addresses are not truncated to 32 bits."""
    shape, flows, pointer = ctypes.POINTER(Shape), ctypes.POINTER(Flow), ctypes.c_void_p
    kernels.block_forward.argtypes, kernels.block_forward.restype = [shape, flows, flows, pointer, ctypes.c_long], None
    for backward in (kernels.block_back, kernels.first_block_back):
        backward.argtypes, backward.restype = [shape, flows, flows, pointer, ctypes.POINTER(Adjoint)], None
    kernels.kernel_forward.argtypes = [pointer, ctypes.c_long, ctypes.c_long, pointer, pointer]
    kernels.kernel_forward.restype = None
    kernels.kernel_back.argtypes, kernels.kernel_back.restype = [shape, *[pointer] * 6], None
    return kernels
