"""Text from other sources in a form that can be shown: on a terminal of any encoding, in pictures, in file names."""

from __future__ import annotations

import codecs
import os
import re
import sys
import unicodedata
from typing import TextIO

JOINERS = "\u200c\u200d"
"""Invisible characters that scripts and emoji need; others of their category hide or reorder text."""
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of control characters, invisible characters, surrogates (bytes that are not UTF-8), and line
ends."""
SPELLED = {
    "±": "+/-", "×": "x", "·": "-", "–": "-", "—": "-", "−": "-", "…": "...", "≤": "<=", "≥": ">=", "→": "->",
    "η": "eta", "θ": "theta", "φ": "phi", "γ": "gamma", "σ": "sigma", "²": "^2", "‖": "||", "’": "'",
}  # fmt: skip
"""ASCII spellings of this package's characters, for terminals that have ASCII only."""
LETTERS = 40
"""Maximum length of a name in a picture; the rest is an ellipsis."""


def printable(text: str) -> str:
    """The text with every control character and every invisible character written as an escape: `\\x1b` for an
    escape."""
    if text.isprintable():
        return text
    return "".join(map(_escape_hidden, text))


def many(count: int, noun: str) -> str:
    """A number and its noun: `1 expert`, `1,437 images`; for nouns whose plural ends in s."""
    return f"{count:,} {noun}" + "s" * (count != 1)


def in_one_line(error: BaseException, most: int = 200) -> str:
    """The message of another package's error, as one printable line of at most `most` characters; the name of its class
    if it has no message."""
    return printable(" ".join(str(error).split()))[:most] or type(error).__name__


def brief(value: object, most: int = 80) -> str:
    """The repr of a value, cut to at most `most` characters."""
    text = repr(value)
    if len(text) > most:
        return f"{text[: most - 1]}…"
    return text


def reason(error: BaseException) -> str:
    """Why a file cannot be read or written: the message of the system, without its number and the path."""
    return getattr(error, "strerror", None) or in_one_line(error)


def _escape_hidden(char: str) -> str:
    if char in "\n\t" or char in JOINERS or unicodedata.category(char) not in HIDDEN:
        return char
    return char.encode("ascii", "backslashreplace").decode("ascii") if not char.isascii() else f"\\x{ord(char):02x}"


def display_name(name: str, most: int = LETTERS) -> str:
    """A class's or a run's name for a picture: one line of at most `most` characters, with spaces for underscores."""
    shown = " ".join(printable(name[: 8 * most]).replace("_", " ").split()) or "(no name)"
    if len(shown) > most or len(name) > 8 * most:
        return f"{shown[: most - 1].rstrip()}…"
    return shown


def file_name(name: str, most: int = 80) -> str:
    """A name as part of a file name: letters, digits, `_` and `-`, at most `most` bytes, the unit in which systems
    count."""
    return re.sub(r"[^\w-]+", "_", name[:most]).encode("utf-8")[:most].decode("utf-8", "ignore")


def _spell_out(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    chars = error.object[error.start : error.end]
    return "".join(SPELLED.get(char) or _escaped(char) for char in chars), error.end


def _escaped(char: str) -> str:
    return char.encode("ascii", "backslashreplace").decode("ascii")


codecs.register_error("astdistill", _spell_out)


def ready_streams() -> None:
    """Prepare the three standard streams: open each, and let both outputs accept every character.

    A character that an output cannot encode is replaced by a spelling of it, instead of an error in the middle of a
    run.
    """
    open_streams()
    for stream in (sys.stdout, sys.stderr):
        _accept_any_character(stream)


def open_streams() -> None:
    """Open those of the three standard streams that are closed: otherwise the next file or pipe would get the number of
    one, and a child process would use it as its standard stream."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(opened, True)


def _accept_any_character(stream: TextIO | None) -> None:
    if stream is not None and getattr(stream, "errors", None) in ("strict", "surrogateescape", "backslashreplace"):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="astdistill")
