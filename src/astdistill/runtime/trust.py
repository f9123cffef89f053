"""Whose word a module is imported on: names that are read from files import nothing, names that the user gives do."""

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
"""Modules whose code the user has asked for, each with those inside it."""
_HERE: ContextVar[frozenset[str]] = ContextVar("here", default=frozenset())
"""Those of them that were typed on a command line, which are looked for in the current folder as well."""
NAMING = ("--method", "--part", "--model", "--architectures", "--evaluation.architectures", "--trust")
"""The flags whose values may name a module of the user's own."""
PATH = re.compile(r"(?:[\w-]+=)?((?:[^\W\d]\w*\.)*[^\W\d]\w*)(?::[\w.]+)?")
"""`package.module`, `package.module:name`, or `field=package.module:name`."""


def module_of(path: str) -> str:
    """The module in `package.module:name`. Raises InputError for what is no such path."""
    module, colon, name = path.partition(":")
    if colon and name and PATH.fullmatch(path) and "=" not in path:
        return module
    raise InputError(f"Cannot import {path[:200]!r}; write 'package.module:name' of something importable.")


def is_trusted(module: str) -> bool:
    """Whether the user has named this module, or one that it lies in."""
    parts = module.split(".")
    return any(".".join(parts[: count + 1]) in _TRUSTED.get() for count in range(len(parts)))


def trust_modules(names: str | Sequence[str]) -> None:
    """Let these modules, `package.module` or `package.module:name`, be imported from here on, also where a file names
    them."""
    _TRUSTED.set(_TRUSTED.get() | _modules(_each(names)))


def trust_models(names: object) -> None:
    """The same for the networks that a caller names, one or several; a built-in one, or None, names no module."""
    _TRUSTED.set(_TRUSTED.get() | _modules(name for name in _each(names) if ":" in str(name)))


def _each(names: object) -> Sequence[Any]:
    if isinstance(names, Sequence) and not isinstance(names, str):
        return names
    return [names]


@contextmanager
def trusting(*names: str) -> Iterator[None]:
    """Let these modules be imported inside the block, also where a file names them.

    Args:
        *names: `package.module` or `package.module:name`; each with the modules inside it.
    """
    token = _TRUSTED.set(_TRUSTED.get() | _modules(names))
    try:
        yield
    finally:
        _TRUSTED.reset(token)


@contextmanager
def typed(words: Sequence[str]) -> Iterator[None]:
    """Inside the block, trust the modules that these words of a command line name; they may lie in the current
    folder."""
    modules = _modules(named_in(words))
    token, here = _TRUSTED.set(_TRUSTED.get() | modules), _HERE.set(_HERE.get() | modules)
    try:
        yield
    finally:
        _TRUSTED.reset(token)
        _HERE.reset(here)


def named_in(words: Sequence[str]) -> list[str]:
    """The values of those flags that may name a module, as far as they do."""
    names, flag = [], ""
    for word in words:
        if word.startswith("--"):
            flag, _, word = word.partition("=")
            flag = flag.replace("_", "-")
        if word and (flag == "--trust" or (flag in NAMING and ":" in word)):
            names.append(word)
    return names


def _modules(names: Iterable[object]) -> frozenset[str]:
    """The modules of these names; `timm:name` is no module."""
    matches = (PATH.fullmatch(name) for name in names if isinstance(name, str))
    return frozenset(each[1] for each in matches if each) - {"timm"}


def words_of_trust() -> tuple[frozenset[str], frozenset[str]]:
    """What another process of this run is told (`take_over`)."""
    return _TRUSTED.get(), _HERE.get()


def take_over(words: tuple[frozenset[str], frozenset[str]]) -> None:
    """Trust what the process that started this one trusts, and import what it has found in the current folder: its
    path is not that of those modules."""
    trusted, here = words
    _TRUSTED.set(trusted)
    _HERE.set(here)
    for module in sorted(here - {"__main__"}):
        try:
            _imported(module)
        except ImportError:  # it was typed and never imported
            continue


def live(path: str) -> Any:
    """What `package.module:name` names in a module that this process has imported already, or None; imports nothing."""
    module, _, name = path.partition(":")
    value: Any = sys.modules.get(module)
    for piece in name.split("."):
        value = getattr(value, "__dict__", {}).get(piece)
    return value


def import_name(path: str) -> Any:
    """The object at `package.module:name`. Raises InputError when it is not there, and, with nothing imported, where
    only a file names it and not the user."""
    module = module_of(path)
    if not is_trusted(module):
        raise InputError(
            f"'{path[:200]}' is named by a file and is no part of astdistill, and to import it would run its code; if "
            f"you trust it, add --trust {module} (in Python: with astdistill.trusting('{module}'))."
        )
    try:
        named = _imported(module)
        for piece in path.partition(":")[2].split("."):
            named = getattr(named, piece)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"Cannot import '{path}' ({error}); write 'package.module:name' of something importable."
        ) from error
    except Exception as error:  # whatever the code of a stranger's module raises, a SyntaxError as well
        kind = type(error).__name__
        raise InputError(
            f"Cannot import '{path}', because its module raises {kind} ({in_one_line(error)}); mend it, or look at the "
            f"whole error: python -c 'import {module}'"
        ) from error
    return named


def _imported(module: str) -> Any:
    """The module; one that was typed on the command line may lie in the current folder, which comes last."""
    if module not in _HERE.get():
        return importlib.import_module(module)
    folder = os.getcwd()
    sys.path.append(folder)
    importlib.invalidate_caches()  # a file that is younger than the last look at the folder
    try:
        return importlib.import_module(module)
    finally:
        for place in range(len(sys.path) - 1, -1, -1):
            if sys.path[place] == folder:
                del sys.path[place]
                break
