"""Which modules may be imported: names that are read from files import nothing, names that the user gives do."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from .errors import InputError
from .text import in_one_line

_TRUSTED: ContextVar[frozenset[str]] = ContextVar("trusted", default=frozenset())
"""Modules whose code the user has requested, each with those inside it."""
_LOCAL: ContextVar[frozenset[str]] = ContextVar("here", default=frozenset())
"""Those of them that were typed on a command line, which are also searched for in the current folder."""
NAMING = (
    "--method", "--methods", "--part", "--model", "--architectures", "--evaluation.architectures",
    "--set", "--trust",
)  # fmt: skip
"""The flags whose values may name a module of the user."""
SETTABLE = "model", "evaluation.architectures"
"""The settings that `--set` may give modules of the user as values."""
PATH = re.compile(r"(?:[\w-]+=)?((?:[^\W\d]\w*\.)*[^\W\d]\w*)(?::[\w.]+)?")
"""`package.module`, `package.module:name`, or `field=package.module:name`."""


def module_of(path: str) -> str:
    """The module in `package.module:name`. Raises InputError for anything else."""
    module, colon, name = path.partition(":")
    if colon and name and PATH.fullmatch(path) and "=" not in path:
        return module
    raise InputError(f"Cannot import {path[:200]!r}; write 'package.module:name' of something importable.")


def is_trusted(module: str) -> bool:
    """Whether the user has named this module, or one that it lies in."""
    parts = module.split(".")
    return any(".".join(parts[: count + 1]) in _TRUSTED.get() for count in range(len(parts)))


def trust_modules(names: str | Sequence[str]) -> None:
    """Allow these modules, `package.module` or `package.module:name`, to be imported from now on, also if a file names
    them."""
    _TRUSTED.set(_TRUSTED.get() | _modules(_as_sequence(names)))


def trust_models(names: object) -> None:
    """The same for the networks that a caller names, one or several; a built-in one, or None, names no module."""
    _TRUSTED.set(_TRUSTED.get() | _modules(name for name in _as_sequence(names) if ":" in str(name)))


def _as_sequence(names: object) -> Sequence[Any]:
    if isinstance(names, Sequence) and not isinstance(names, str):
        return names
    return [names]


@contextmanager
def trusting(*names: str) -> Iterator[None]:
    """Allow these modules to be imported inside the block, also if a file names them.

    Args:
        *names: `package.module` or `package.module:name`; each with the modules inside it.
    """
    token = _TRUSTED.set(_TRUSTED.get() | _modules(names))
    try:
        yield
    finally:
        _TRUSTED.reset(token)


@contextmanager
def typed(arguments: Sequence[str]) -> Iterator[None]:
    """Inside the block, trust the modules that these command-line arguments name; they may lie in the current
    folder."""
    modules = _modules(named_in(arguments))
    token, local_token = _TRUSTED.set(_TRUSTED.get() | modules), _LOCAL.set(_LOCAL.get() | modules)
    try:
        yield
    finally:
        _TRUSTED.reset(token)
        _LOCAL.reset(local_token)


def named_in(arguments: Sequence[str]) -> list[str]:
    """The values of the flags that may name a module, if they do."""
    names, flag = [], ""
    for argument in arguments:
        if argument.startswith("--"):
            flag, _, argument = argument.partition("=")
            flag = flag.replace("_", "-")
        if flag == "--trust":
            names.append(argument)
        elif flag in NAMING:
            names += [each for each in _values(flag, argument) if ":" in each]
    return list(filter(None, names))


def _values(flag: str, argument: str) -> list[str]:
    """The values in one argument of a flag: `--methods` separates them by commas, `--set model=A,B` too, and words of
    one value by +."""
    if flag == "--methods":
        return argument.split(",")
    if flag == "--set":
        name, _, values = argument.partition("=")
        if name.replace("-", "_") not in SETTABLE:
            return []
        return re.split("[,+]", values)
    return [argument]


def _modules(names: Iterable[object]) -> frozenset[str]:
    """The modules of these names; `timm:name` is no module."""
    matches = (PATH.fullmatch(name) for name in names if isinstance(name, str))
    return frozenset(each[1] for each in matches if each) - {"timm"}


def trusted_modules() -> tuple[frozenset[str], frozenset[str]]:
    """The trusted modules, for another process of this run (`take_over`)."""
    return _TRUSTED.get(), _LOCAL.get()


def take_over(modules: tuple[frozenset[str], frozenset[str]]) -> None:
    """Trust what the process that started this one trusts, and import what it has found in the current folder, which
    may not be in the path of this process."""
    trusted, local = modules
    _TRUSTED.set(trusted)
    _LOCAL.set(local)
    for module in sorted(local - {"__main__"}):
        try:
            _import_module(module)
        except ImportError:  # it was typed, but never imported
            continue


def live(path: str) -> Any:
    """The object at `package.module:name` if this process has already imported the module, or None; imports nothing."""
    module, _, name = path.partition(":")
    value: Any = sys.modules.get(module)
    for piece in name.split("."):
        value = getattr(value, "__dict__", {}).get(piece)
    return value


def import_name(path: str) -> Any:
    """The object at `package.module:name`. Raises InputError if it does not exist, and, with nothing imported, if only
    a file names it and not the user."""
    module = module_of(path)
    if not is_trusted(module):
        raise InputError(
            f"'{path[:200]}' is named by a file and is no part of astdistill, and to import it would run its code; if "
            f"you trust it, add --trust {module} (in Python: with astdistill.trusting('{module}'))."
        )
    try:
        found = _import_module(module)
        for piece in path.partition(":")[2].split("."):
            found = getattr(found, piece)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"Cannot import '{path}' ({error}); write 'package.module:name' of something importable."
        ) from error
    except Exception as error:  # the code of the module may raise anything, also a SyntaxError
        kind = type(error).__name__
        raise InputError(
            f"Cannot import '{path}', because its module raises {kind} ({in_one_line(error)}); correct it, or see the "
            f"whole traceback: python -c 'import {module}'"
        ) from error
    return found


def _import_module(module: str) -> Any:
    """Import the module; one that was typed on the command line may lie in the current folder, which is searched
    last."""
    if module not in _LOCAL.get():
        return importlib.import_module(module)
    folder = os.getcwd()
    sys.path.append(folder)
    importlib.invalidate_caches()  # the file may be newer than the cached listing of the folder
    try:
        return importlib.import_module(module)
    finally:
        for index in range(len(sys.path) - 1, -1, -1):
            if sys.path[index] == folder:
                del sys.path[index]
                break
