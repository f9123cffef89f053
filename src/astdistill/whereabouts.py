"""Where things lie on somebody's machine, which has no place in what is published. No domain words here."""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath
from typing import Any

PLACE = re.compile(r"(?P<flag>[\w.-]+=|[\w-]{2,}:(?!//))?(?P<path>(?:[A-Za-z]:)?[\\/].*|~.*|\.\.[\\/].*)", re.DOTALL)
"""A path that starts at the root, at a home or above the present folder, alone or behind `--flag=` or `kind:`; relative ones are not."""


def without_places(value: Any) -> Any:
    """The JSON-ready value with the own name of a file or folder in the place of every such path."""
    if isinstance(value, dict):
        return {name: without_places(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(inner) for inner in value]
    if isinstance(value, str) and (found := PLACE.fullmatch(value)):
        return (found["flag"] or "") + own_name(found["path"])
    return value


def own_name(path: str) -> str:
    """The last part of a path of whatever system."""
    return PureWindowsPath(path).name


def as_shown(folder: Path) -> str:
    """A folder as a page may name it: its way from the present folder, or its own name where it lies elsewhere."""
    here, there = Path.cwd(), folder.resolve()
    return there.relative_to(here).as_posix() if there.is_relative_to(here) else there.name
