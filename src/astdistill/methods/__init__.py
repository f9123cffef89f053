"""Methods, one file a paper; every module here that holds a Method is found by its name."""

from __future__ import annotations

import importlib
import pkgutil

from ..errors import InputError, unknown
from ..records import import_name
from .ast_as_released import AST_AS_RELEASED
from .ast_smooth import AST
from .att import ATT
from .datm import DATM
from .ftd import FTD
from .method import PARTS, Method
from .mtt import MTT
from .tesla import TESLA

__all__ = ["AST", "AST_AS_RELEASED", "ATT", "DATM", "FTD", "MTT", "PARTS", "TESLA", "Method", "find_method", "methods"]


def methods() -> dict[str, Method]:
    """All methods of this package by name; a new file in this folder is enough to be in it."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__) if not module.ispkg]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Method)]
    return {method.name: method for method in found}


def find_method(name: str) -> Method:
    """The method called `name`, or at the import path `package.module:NAME` of a user's own package."""
    if ":" in name:
        found = import_name(name)
        if not isinstance(found, Method):
            raise InputError(f"'{name}' is a {type(found).__name__}, not a Method; name one as 'package.module:NAME'.")
        return found
    known = methods()
    if name not in known:
        raise unknown("method", name, known)
    return known[name]
