"""The findings of `astdistill doctor`, and their table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from rich.markup import escape
from rich.table import Table

from ..runtime.config import Record
from ..runtime.errors import InputError

MARKS = {"good": "[green]✓[/]", "note": "[yellow]–[/]", "bad": "[red]✗[/]"}


class Finding(Record):
    """One finding, and advice on what to do about it."""

    name: str
    state: Literal["good", "note", "bad"]
    """good; note: something optional is missing, or slower than it could be; bad: astdistill cannot work like this."""
    text: str
    advice: str = ""
    """What to type or to change; empty where there is nothing to mend."""


def judged(
    name: str, good: bool, text: str, advice: str, otherwise: Literal["note", "bad"] = "bad", fault: str = ""
) -> Finding:
    """A good finding, or else one of the state `otherwise` with the advice and, if given, `fault` in place of the
    text."""
    if good:
        return Finding(name=name, state="good", text=text)
    return Finding(name=name, state=otherwise, text=fault or text, advice=advice)


def guarded(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield the findings of a check. An exception becomes a finding, so that the others are still shown."""
    try:
        yield from check()
    except InputError as error:
        yield Finding(name=name, state="bad", text=str(error))
    except Exception as error:
        yield Finding(
            name=name,
            state="bad",
            text=f"{type(error).__name__}: {shortened(str(error))}",
            advice="report this as an issue",
        )


def shortened(text: str, length: int = 200) -> str:
    """The text on one line, cut off at `length` characters."""
    line = " ".join(text.split())
    if len(line) <= length:
        return line
    return f"{line[:length]} …"


def table(findings: Iterable[Finding]) -> Table:
    """The findings for the terminal."""
    grid = Table(show_header=False, box=None, padding=(0, 1))
    for finding in findings:
        text = escape(finding.text)
        if finding.advice:
            text += f"\n[bold]→ {escape(finding.advice)}[/]"
        grid.add_row(MARKS[finding.state], finding.name, text)
    return grid


def verdict(findings: Iterable[Finding]) -> str:
    """The sentence below the table."""
    bad = [finding.name for finding in findings if finding.state == "bad"]
    if bad:
        return f"✗ Fix this first: {', '.join(bad)}."
    return "✓ astdistill works here. Next: astdistill demo"
