"""Sentences for the person who typed something we cannot use."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input, found at the entrance: the value given, what is allowed, the next command.

    The command line prints the sentence and exits with code 2; nothing has been written when it is raised.
    """


class DivergedError(RuntimeError):
    """Numbers stopped being finite too often to go on; the last good state is on disk."""


def unknown(kind: str, name: str, choices: Iterable[str], listed_by: str = "") -> InputError:
    """The error for a name that is not in `choices`, with the nearest one suggested; many are not named but `listed_by` a command."""
    names = sorted(choices)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    known = f"All are listed by: {listed_by}" if listed_by else f"Known: {', '.join(names)}"
    return InputError(f"There is no {kind} '{name}'.{hint} {known}.")
