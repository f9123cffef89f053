"""Messages about the data that were read, on the console of progress messages."""

from __future__ import annotations

import textwrap

from ..data.description import COLUMNS, Description, item
from ..runtime import progress

FLAG_COLUMNS = 35
INDENT = " " * (FLAG_COLUMNS + 4)
"""Indentation of a reason on lines below its flag."""


def print_data(description: Description) -> None:
    """Print the full description of the data; if the command is quiet, only its warnings."""
    if progress.is_quiet():
        _print_warnings(description)
    else:
        plain(description.text())


def print_data_briefly(description: Description) -> None:
    """Print one line about the data, and the warnings; if the command is quiet, only the warnings."""
    if not progress.is_quiet():
        plain(f"Data: {description.line}")
    _print_warnings(description)


def plain(text: str) -> None:
    """Print text without markup or highlighting."""
    progress.console().print(text, markup=False, highlight=False)


def chosen(flag: str, reason: str) -> list[str]:
    """A flag with its value and the reason for it, in lines of at most 80 columns."""
    if len(flag) > FLAG_COLUMNS:
        return [f"  {flag}", *textwrap.wrap(reason, COLUMNS, initial_indent=INDENT, subsequent_indent=INDENT)]
    return textwrap.wrap(reason, COLUMNS, initial_indent=f"  {flag:<{FLAG_COLUMNS}}  ", subsequent_indent=INDENT)


def _print_warnings(description: Description) -> None:
    for warning in description.warnings:
        plain("\n".join(item("warning", warning)))
