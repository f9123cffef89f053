"""What was read of the data, on the console that tells of progress."""

from __future__ import annotations

import textwrap

from ..data.description import COLUMNS, Description, item
from ..runtime import progress

FLAG_COLUMNS = 35
WHY = " " * (FLAG_COLUMNS + 4)
"""What stands before a reason in lines of its own."""


def tell(description: Description) -> None:
    """Say what was read, in full; of a quiet command, only what is odd."""
    if progress.is_quiet():
        _warn(description)
    else:
        plain(description.text())


def tell_briefly(description: Description) -> None:
    """Say in one line what was read, and what is odd; of a quiet command, the latter alone."""
    if not progress.is_quiet():
        plain(f"Data: {description.line}")
    _warn(description)


def plain(text: str) -> None:
    """Write lines as they are."""
    progress.console().print(text, markup=False, highlight=False)


def chosen(flag: str, why: str) -> list[str]:
    """A flag with its value and why it has it, in lines of at most 80 columns."""
    if len(flag) > FLAG_COLUMNS:
        return [f"  {flag}", *textwrap.wrap(why, COLUMNS, initial_indent=WHY, subsequent_indent=WHY)]
    return textwrap.wrap(why, COLUMNS, initial_indent=f"  {flag:<{FLAG_COLUMNS}}  ", subsequent_indent=WHY)


def _warn(description: Description) -> None:
    for warning in description.warnings:
        plain("\n".join(item("warning", warning)))
