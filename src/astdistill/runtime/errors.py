"""Exceptions, and messages about input that cannot be used."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .text import brief, printable

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """Invalid input. The message names the value given, what is allowed, and the next command.

    It is raised before anything is written; the command line prints the message and exits with code 2.
    """

    def __str__(self) -> str:
        """The message, with characters that control a terminal written out, since it may contain foreign names."""
        return printable(super().__str__())


class LostError(InputError):
    """The process or the node of a job was lost, usually because memory ran out. `job` is the job it was computing,
    None if there was none."""

    job: Any = None


class DivergedError(RuntimeError):
    """Numbers became non-finite too often to continue; the last good state is on disk."""


class FolderGoneError(RuntimeError):
    """The folder that a run writes to was deleted, or another process has it; the command line ends with code 1."""


ALLOWED = {
    "greater_than_equal": "choose {ge:g} or more",
    "greater_than": "choose a number above {gt:g}",
    "less_than_equal": "choose {le:g} or less",
    "less_than": "choose a number below {lt:g}",
    "finite_number": "choose a finite number",
    "literal_error": "choose {expected}",
    "float_parsing": "give a number",
    "float_type": "give a number",
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "int_type": "give a whole number",
    "bool_parsing": "give true or false",
    "bool_type": "give true or false",
    "extra_forbidden": "there is no setting of that name",
    "model_type": "give a value of {class_name}",
    "frozen_instance": "make a changed copy with replace",
}
"""Messages for values that pydantic refuses, by its error type; other errors keep the message of pydantic."""


def unknown(kind: str, name: str, choices: Iterable[str], listed_by: str = "", context: str = "") -> InputError:
    """The error for a name that is not in `choices`, with the nearest one suggested; a long list of choices is replaced
    by `listed_by`, the command that prints it.

    `context` completes the sentence with where the name was looked up, starting with a preposition.
    """
    names = sorted(choices)
    listing = f"Known: {', '.join(names) or 'none'}"
    if listed_by:
        listing = f"All are listed by: {listed_by}"
    return InputError(f"There is no {kind} '{name}'{context and f' {context}'}.{suggestion(name, names)} {listing}.")


NEAR = 0.6
"""How similar a name is that is suggested (`difflib`). Of 110 typed names those between 0.5 and 0.6 were mostly others'
names: 'test' for get, 'boat' for cat, 'efficientnet' for convnet, 'standard' for tgdd."""


def suggestion(name: str, names: Sequence[str], most: int = 1) -> str:
    """A sentence that names the nearest of `names`, after a space; '' if none is near. `most` is how many it may
    name."""
    near = difflib.get_close_matches(name, names, n=most, cutoff=NEAR)
    if not near:
        return ""
    return " Did you mean " + " or ".join(f"'{each}'" for each in near) + "?"


def flag_name(setting: str) -> str:
    """The flag of a setting, given by its dotted name."""
    return f"--{setting.replace('_', '-')}"


def refused(error: ValidationError | InputError, prefix: str = "", prog: str = "") -> InputError:
    """The first error of a record's validation, as one sentence. With `prog`, the value was typed as a flag below
    `prefix` of that command."""
    if isinstance(error, InputError):
        return error
    first = error.errors()[0]
    context = first.get("ctx", {})
    if isinstance(context.get("error"), InputError):
        return context["error"]
    names = [piece for piece in first["loc"] if isinstance(piece, str)]
    name = ".".join(filter(None, [prefix, *names]))
    if prog:
        name = flag_name(name)
    allowed = first["msg"][:1].lower() + first["msg"][1:]
    if first["type"] in ALLOWED:
        allowed = ALLOWED[first["type"]].format(**context)
    if first["type"] == "missing":  # its input is the whole record
        return InputError(f"{name} has no value, and no default; give one.")
    return InputError(f"{name} cannot be {brief(first['input'])}; {allowed}.{prog and f' See: {prog} --help'}")
