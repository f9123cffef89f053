"""Methods by name: every module of this package that holds a Method is searched."""

from __future__ import annotations

import importlib
import pkgutil

from ..runtime.errors import InputError, unknown
from ..runtime.trust import import_name, live
from .method import Method


def methods() -> dict[str, Method]:
    """All methods of this package by name. A method in a new file of this folder is found automatically."""
    package = importlib.import_module(__package__ or "")
    modules = [
        importlib.import_module(f"{__package__}.{module.name}") for module in pkgutil.iter_modules(package.__path__)
    ]
    records = [value for module in modules for value in vars(module).values() if isinstance(value, Method)]
    return {method.name: method for method in records}


def find_method(name: str) -> Method:
    """The method with that name.

    Args:
        name: Name of a method of this package, such as "mtt", or the import path `package.module:NAME` of one of your
            own.

    Raises:
        InputError: There is no such method, or finding it would import a module that only a file names.
    """
    if ":" in name:
        record = live(name)
        if not isinstance(record, Method):
            record = import_name(name)
        if not isinstance(record, Method):
            kind = "class" if isinstance(record, type) else type(record).__name__
            raise InputError(f"'{name}' is a {kind}, not a Method; name one as 'package.module:NAME'.")
        return record
    available = methods()
    if name not in available:
        raise unknown("method", name, available)
    return available[name]
