"""Words of others as they can be shown: on a terminal of any encoding, in pictures, in file names."""

from __future__ import annotations

import codecs
import os
import re
import sys
import unicodedata
from typing import TextIO

JOINERS = "\u200c\u200d"
"""Invisible signs that scripts and pictograms need; the others of their kind hide or turn round what stands there."""
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of control signs, invisible ones, halves of signs (bytes that are no UTF-8), and line ends."""
SPELLED = {
    "±": "+/-", "×": "x", "·": "-", "–": "-", "—": "-", "−": "-", "…": "...", "≤": "<=", "≥": ">=", "→": "->",
    "η": "eta", "θ": "theta", "φ": "phi", "γ": "gamma", "σ": "sigma", "²": "^2", "‖": "||", "’": "'",
}  # fmt: skip
"""How our own signs are written where the terminal has ASCII alone."""
LETTERS = 40
"""Of a name in a picture; the rest is an ellipsis."""


def printable(text: str) -> str:
    """The text with every sign that a terminal obeys, or that nobody sees, written out: `\\x1b` for an escape."""
    if text.isprintable():
        return text
    return "".join(map(_written_out, text))


def many(count: int, noun: str) -> str:
    """A number and its noun: `1 expert`, `1,437 images`; for nouns whose plural ends in s."""
    return f"{count:,} {noun}" + "s" * (count != 1)


def in_one_line(error: BaseException, most: int = 200) -> str:
    """What an error of another package says, as one printable line of at most `most` signs; the name of its class where
    it says nothing."""
    return printable(" ".join(str(error).split()))[:most] or type(error).__name__


def reason(error: BaseException) -> str:
    """Why a file cannot be read or written, in words: what the system says, without its number and the path."""
    return getattr(error, "strerror", None) or in_one_line(error)


def _written_out(sign: str) -> str:
    if sign in "\n\t" or sign in JOINERS or unicodedata.category(sign) not in HIDDEN:
        return sign
    return sign.encode("ascii", "backslashreplace").decode("ascii") if not sign.isascii() else f"\\x{ord(sign):02x}"


def shown_name(name: str, most: int = LETTERS) -> str:
    """A class's or a run's name for a picture: one line of at most `most` letters, with spaces for underscores."""
    words = " ".join(printable(name[: 8 * most]).replace("_", " ").split()) or "(no name)"
    if len(words) > most or len(name) > 8 * most:
        return f"{words[: most - 1].rstrip()}…"
    return words


def file_name(name: str, most: int = 80) -> str:
    """A name as part of a file's: letters, digits, `_` and `-`, at most so many bytes, which is what systems count."""
    return re.sub(r"[^\w-]+", "_", name[:most]).encode("utf-8")[:most].decode("utf-8", "ignore")


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(SPELLED.get(sign) or _escaped(sign) for sign in signs), error.end


def _escaped(sign: str) -> str:
    return sign.encode("ascii", "backslashreplace").decode("ascii")


codecs.register_error("astdistill", _spelled)


def ready_streams() -> None:
    """Make the three standard streams fit for use: each open, and both outputs taking every sign.

    Where an output cannot encode a sign, it gets a spelling of it in place of an error in the middle of a run.
    """
    open_streams()
    for stream in (sys.stdout, sys.stderr):
        _any_sign(stream)


def open_streams() -> None:
    """Open those of the three standard streams that are closed: one would give its number to the next file or pipe of
    ours, which a child would take for its own."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(opened, True)


def _any_sign(stream: TextIO | None) -> None:
    if stream is not None and getattr(stream, "errors", None) in ("strict", "surrogateescape", "backslashreplace"):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="astdistill")
