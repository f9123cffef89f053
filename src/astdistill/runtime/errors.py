"""Sentences for the person who typed something we cannot use."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .text import printable

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """Bad input, found at the entrance: the value given, what is allowed, the next command.

    The command line prints the sentence and exits with code 2; nothing has been written when it is raised.
    """

    def __str__(self) -> str:
        """The sentence; signs of a stranger's names that a terminal would obey are written out."""
        return printable(super().__str__())


class LostError(InputError):
    """The process or the node of a job was lost, as happens where memory runs out; `job` is that, None where none was
    under way there."""

    job: Any = None


class DivergedError(RuntimeError):
    """Numbers stopped being finite too often to go on; the last good state is on disk."""


class FolderGoneError(RuntimeError):
    """The folder that a run writes to was deleted, or another process has it; the command line ends with code 1."""


ALLOWED = {
    "greater_than_equal": "choose {ge:g} or more",
    "greater_than": "choose a number above {gt:g}",
    "less_than_equal": "choose {le:g} or less",
    "less_than": "choose a number below {lt:g}",
    "finite_number": "choose a finite number",
    "literal_error": "choose {expected}",
    "extra_forbidden": "there is no setting of that name",
}
"""What a record says of a value that it refuses, in our words; its own stand for all else."""


def unknown(kind: str, name: str, choices: Iterable[str], listed_by: str = "", where: str = "") -> InputError:
    """The error for a name that is not in `choices`, with the nearest one suggested; many are not named but `listed_by`
    a command.

    `where` says what the name was looked for in, from the preposition on.
    """
    names = sorted(choices)
    known = f"Known: {', '.join(names) or 'none'}"
    if listed_by:
        known = f"All are listed by: {listed_by}"
    return InputError(f"There is no {kind} '{name}'{where and f' {where}'}.{suggestion(name, names)} {known}.")


def suggestion(name: str, names: Sequence[str], most: int = 1, cutoff: float = 0.5) -> str:
    """A sentence that names the nearest of `names`, behind a space, or '' where none is near. `most` says how many it
    may name, `cutoff` how alike they must be (`difflib`)."""
    near = difflib.get_close_matches(name, names, n=most, cutoff=cutoff)
    if not near:
        return ""
    return " Did you mean " + " or ".join(f"'{each}'" for each in near) + "?"


def refused(error: ValidationError | InputError, prefix: str = "", prog: str = "") -> InputError:
    """The first thing that a record refuses, as one sentence. A `prog` says that it was typed, as a flag below
    `prefix`."""
    if isinstance(error, InputError):
        return error
    first = error.errors()[0]
    told = first.get("ctx", {})
    if isinstance(told.get("error"), InputError):
        return told["error"]
    names = [piece for piece in first["loc"] if isinstance(piece, str)]
    name = ".".join(filter(None, [prefix, *names]))
    if prog:
        name = f"--{name.replace('_', '-')}"
    allowed = first["msg"][:1].lower() + first["msg"][1:]
    if first["type"] in ALLOWED:
        allowed = ALLOWED[first["type"]].format(**told)
    return InputError(f"{name} cannot be {first['input']!r}; {allowed}.{prog and f' See: {prog} --help'}")
