"""What was read of the data, on the console that tells of progress."""

from __future__ import annotations

from ..data.description import Description, item
from ..runtime import progress


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
    progress.console().print(text, markup=False, highlight=False, soft_wrap=True)


def _warn(description: Description) -> None:
    for warning in description.warnings:
        plain("\n".join(item("warning", warning)))
