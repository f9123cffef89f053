"""Flags, read from the words of a command line; words that cannot be read are refused in one sentence, and nothing is
run.

tyro reads records and functions, argparse a few flags beside them. Both know what is wrong; here is how it is said.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import io
import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from typing import Any, NoReturn, TypeVar

import tyro
from pydantic import ValidationError

from ..runtime.errors import InputError, refused, unknown

T = TypeVar("T")
LISTED = re.compile(r"^[\s│|]*(?:-\w(?: \w+)?, )?(--[a-z][\w.-]*)(?:, (--[a-z][\w.-]*))?", re.MULTILINE)
"""A flag where a line of help begins with it, and its opposite beside it."""
BOX = " \t│|╭╮╰╯"
RULED = re.compile(r"[─-]{5,}")
WANTED = {"INT": "a whole number", "FLOAT": "a number", "PATH": "a path", "STR": "a word"}
"""What help calls a value."""


def read(wanted: Callable[..., T], words: Sequence[str], prog: str, **how: Any) -> T:
    """What tyro makes of the words: a record of the type `wanted`, or what a function returns. `how` goes to
    `tyro.cli`.

    Raises InputError for words that are no flags, for values that cannot be, and for absent ones; --help is shown and
    ends the process.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            found, rest = tyro.cli(wanted, prog=prog, args=list(words), return_unknown_args=True, **how)
    except SystemExit as stop:
        if not stop.code:
            raise
        text = "\n".join(line.strip(BOX) for line in said.getvalue().splitlines())
        raise _sentence(text, stop, words, prog, lambda: _help(wanted, prog, how)) from None
    if rest:
        raise surplus(rest, prog, _help(wanted, prog, how))
    return found


def call(function: Callable[..., T], words: Sequence[str], prog: str) -> T:
    """What `function` returns, called with its arguments as the words name them. Raises as `read` does, before the
    call."""

    @functools.wraps(function)
    def held(*given: Any, **named: Any) -> Callable[[], T]:
        return functools.partial(function, *given, **named)

    return read(held, words, prog)()


class Parser(argparse.ArgumentParser):
    """An argparse parser that takes no shortened flags and raises InputError in place of ending the process."""

    def __init__(self, prog: str, **how: Any) -> None:
        super().__init__(prog=prog, allow_abbrev=False, **how)

    def parse_args(self, words: Sequence[str]) -> argparse.Namespace:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The flags in the words, all of which have to be some."""
        found, rest = self.parse_known_args(words)
        if rest:
            raise surplus(rest, self.prog, self.format_help())
        return found

    def error(self, message: str) -> NoReturn:
        flag, _, why = message.removeprefix("argument ").partition(": ")
        value = re.search(r"'([^']*)'", why)
        if value and why.startswith(("invalid int", "invalid float")):
            raise _cannot(flag, value[1], "INT" if "int" in why else "FLOAT", self.prog)
        if value and why.startswith("invalid choice"):
            raise unknown(flag, value[1], re.findall(r"[\w.-]+", why.partition("choose from")[2]))
        raise InputError(
            f"{flag} needs a value; see: {self.prog} --help"
            if "expected" in why
            else f"{message}; see: {self.prog} --help"
        )


def surplus(rest: Sequence[str], prog: str, shown: str) -> InputError:
    """The error for words that nothing takes, with the nearest flag of those in the help that is `shown`."""
    word = next((word.partition("=")[0] for word in rest if word.startswith("-")), rest[0])
    if not word.startswith("-"):
        return InputError(f"'{word}' is one word more than {prog} takes; leave it out, or see: {prog} --help")
    flags = dict.fromkeys(flag for pair in LISTED.findall(shown) for flag in pair if flag)
    ends = [flag for flag in flags if flag.rpartition(".")[2] == word.replace("_", "-").lstrip("-").rpartition(".")[2]]
    near = ends or difflib.get_close_matches(word.replace("_", "-"), flags, n=1, cutoff=0.6)
    hint = f" Did you mean {' or '.join(near[:3])}?" if near else ""
    return InputError(f"There is no flag {word}.{hint} All are listed by: {prog} --help")


def _sentence(text: str, stop: SystemExit, words: Sequence[str], prog: str, shown: Callable[[], str]) -> InputError:
    """What tyro said in its box, in our words; in tyro's own on one line where they are others than those known
    here."""
    title, *below = RULED.split(text)
    body = " ".join((below[0] if below else title).split())
    if invalid := re.search(r"invalid choice '(.*)' for argument '(.*)'. Expected one of \((.*)\)", body):
        return unknown(invalid[2], invalid[1], re.findall(r"'([^']*)'", invalid[3]))
    if missing := re.search(r"Missing value for argument '(.*)'", body):
        return InputError(f"{missing[1]} needs a value; see: {prog} --help")
    if body.startswith("Missing from"):
        return _incomplete(body, words, prog, shown())
    parsed = re.match(r"Error parsing (\S+):", body)
    if parsed and (error := _cause(stop)) is not None:
        return refused(error, "" if parsed[1][0].isupper() else parsed[1], prog)
    kind = re.search(r"Argument helptext:\s+(?:.*, )?-\S+ (\S+)", text)
    value = re.search(r"'([^']*)'", body)
    if parsed and kind and value:
        return _cannot(parsed[1], value[1], kind[1], prog)
    return InputError(f"{body.rstrip('.')}; see: {prog} --help")


def _incomplete(body: str, words: Sequence[str], prog: str, shown: str) -> InputError:
    """The error for required words that are not there; a flag that does not exist comes first, since it may stand for
    one of them."""
    known = {flag for pair in LISTED.findall(shown) for flag in pair}
    strange = [
        word for word in words if word.startswith("--") and word.partition("=")[0].replace("_", "-") not in known
    ]
    if strange:
        return surplus(strange, prog, shown)
    absent = re.findall(r"(?:: |\(required\) )([A-Z]+|--[\w.-]+)", body)
    return InputError(f"{' and '.join(absent)} {'are' if len(absent) > 1 else 'is'} missing; see: {prog} --help")


def _cannot(flag: str, value: str, kind: str, prog: str) -> InputError:
    wanted = [
        name for each in kind.split("|") if each != "{None}" for name in WANTED.get(each, each.strip("{}")).split(",")
    ]
    choice = ", ".join([*wanted[:-2], " or ".join(wanted[-2:])])
    return InputError(f"{flag} cannot be '{value}'; give {choice}. See: {prog} --help")


def _cause(stop: BaseException) -> ValidationError | InputError | None:
    """What a record said before tyro ended the process."""
    error: BaseException | None = stop
    while error is not None:
        if isinstance(error, ValidationError | InputError):
            return error
        error = error.__context__
    return None


def _help(wanted: Callable[..., object], prog: str, how: dict[str, Any]) -> str:
    shown = io.StringIO()
    with redirect_stdout(shown), suppress(SystemExit):
        tyro.cli(wanted, prog=prog, args=["--help"], **how)
    return shown.getvalue()
