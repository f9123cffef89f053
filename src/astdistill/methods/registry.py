"""Methods by name: every module of this package that holds a Method is searched."""

from __future__ import annotations

import importlib
import pkgutil

from ..runtime.errors import InputError, unknown
from ..runtime.trust import import_name, live
from .method import Method


def methods() -> dict[str, Method]:
    """All methods of this package by name; a new file in this folder is enough to be in it."""
    package = importlib.import_module(__package__ or "")
    modules = [
        importlib.import_module(f"{__package__}.{module.name}") for module in pkgutil.iter_modules(package.__path__)
    ]
    records = [value for module in modules for value in vars(module).values() if isinstance(value, Method)]
    return {method.name: method for method in records}


def find_method(name: str) -> Method:
    """The method of that name.

    Args:
        name: What a method of this package is called, such as "mtt", or the import path `package.module:NAME` of one of
            your own.

    Raises:
        InputError: Where there is none, and where finding it would import what only a file names.
    """
    if ":" in name:
        record = live(name)
        if not isinstance(record, Method):
            record = import_name(name)
        if not isinstance(record, Method):
            raise InputError(f"'{name}' is a {type(record).__name__}, not a Method; name one as 'package.module:NAME'.")
        return record
    known = methods()
    if name not in known:
        raise unknown("method", name, known)
    return known[name]
