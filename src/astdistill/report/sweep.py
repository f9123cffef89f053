"""What a sweep of whole runs has reached: its rows, as values that a file, tables and a page are made of. Nothing here
imports torch, so that `astdistill watch` starts at once."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from ..runtime.config import FINITE, Record
from ..runtime.errors import InputError, refused
from ..runtime.files import read_json, write_json
from ..runtime.tables import ABSENT, Column, Tabulation, spread

FILE, PAGE, STEM = "sweep.json", "report.html", "sweep"
"""In the folder of a sweep: its numbers, its page, and the name of its table's files without their endings."""
Line = tuple[str, str, str]
"""Preset, method and settings: what all runs of one line of the table share."""


class SweepRow(Record):
    """One whole run of a sweep."""

    model_config = FINITE

    folder: str
    """In the folder of the sweep."""
    preset: str
    method: str
    """The method, or the variant of one."""
    settings: str = ""
    """What `--set` varies, in words."""
    seed: int
    decisive: str
    """A digest of all that decides the result."""
    state: Literal["waiting", "finished", "failed"] = "waiting"
    sentence: str = ""
    """Why it failed."""
    error: str = ""
    """The class of the error that it failed with."""
    labels: str = ""
    """hard, soft or weights."""
    protocol: str = ""
    """How its networks were trained and tested, in words."""
    network: str = ""
    accuracies: tuple[float, ...] = ()
    """What the protocol reports of each network of the run's own student, in percent."""
    baselines: dict[str, float] = Field(default_factory=dict)
    """The mean accuracy of real images, where this run has trained on them."""

    @property
    def line(self) -> Line:
        return self.preset, self.method, self.settings

    @property
    def mean(self) -> float:
        """Over its networks."""
        return statistics.fmean(self.accuracies)


class Sweep(Record):
    """All rows, in the order in which they are run; of a line of the table, there is one for each seed."""

    title: str
    rows: tuple[SweepRow, ...]

    def save(self, folder: Path) -> None:
        """Write `folder`/sweep.json."""
        write_json(folder / FILE, self.to_json())

    @staticmethod
    def read(folder: Path) -> Sweep | None:
        """What `save` wrote; None where there is no such file. Raises InputError for one that something else wrote."""
        path = folder / FILE
        if not path.exists():
            return None
        try:
            return Sweep.model_validate(read_json(path))
        except ValidationError as error:
            raise InputError(
                f"{path} is no sweep ({refused(error)}); type its command again with another --out."
            ) from error

    def of(self, state: str) -> tuple[SweepRow, ...]:
        """The rows that are waiting, finished or failed."""
        return tuple(row for row in self.rows if row.state == state)

    def replaced(self, row: SweepRow) -> Sweep:
        """The same with another row in the place of the one with its folder."""
        return self.replace(rows=tuple(row if row.folder == each.folder else each for each in self.rows))

    def lines(self) -> dict[Line, tuple[SweepRow, ...]]:
        """The rows by the line of the table that they are part of."""
        by_line: dict[Line, list[SweepRow]] = {}
        for row in self.rows:
            by_line.setdefault(row.line, []).append(row)
        return {line: tuple(rows) for line, rows in by_line.items()}

    def first(self, line: Line) -> Line:
        """The line that another is compared with: the first method with the same preset and settings; where there is
        one method, the first settings."""
        lines = list(self.lines())
        same = [other for other in lines if (other[0], other[2]) == (line[0], line[2])]
        if len({method for _, method, _ in lines}) == 1:
            same = [other for other in lines if other[0] == line[0]]
        return same[0]

    def differences(self, line: Line) -> tuple[float, ...]:
        """By seed, what the line reaches less what its first line does, in points; nothing for those that were measured
        by another protocol or have other labels, and for the first line itself."""
        first = self.first(line)
        if first == line:
            return ()
        lines = self.lines()
        known = {(row.seed, row.protocol, row.labels): row.mean for row in lines[first] if row.accuracies}
        pairs = [(row, (row.seed, row.protocol, row.labels)) for row in lines[line] if row.accuracies]
        return tuple(row.mean - known[key] for row, key in pairs if key in known)


BASELINES = {
    "random": "random real",
    "kmeans": "K-means real",
    "herding": "herding real",
    "kcenter": "k-centre real",
    "full": "full data",
}
"""Columns of real images: those of `evaluation.rows`, which imports torch."""
TAUGHT = {"teacher": "random real, a teacher’s labels"}
"""The column of real images whose soft labels are a network's."""
LABELS = {"hard": "hard", "soft": "soft", "weights": "learned, not normalised"}


def sweep_table(sweep: Sweep) -> Tabulation:
    """The table: mean ± standard deviation over seeds of the runs' means, differences with the same seed, and how each
    line was measured."""
    lines = sweep.lines()
    protocols = list(dict.fromkeys(row.protocol for row in sweep.rows if row.protocol))
    several = [len({line[number] for line in lines}) > 1 for number in range(3)]
    several[1] = True
    real = BASELINES | TAUGHT
    shown = [name for name in real if any(name in row.baselines for row in sweep.rows)]
    compared = len({sweep.first(line) for line in lines}) < len(lines)
    names = ("preset", "method", "settings")
    columns = [Column(name, words=True) for name, wanted in zip(names, several, strict=True) if wanted]
    columns += [Column("labels", words=True), Column("protocol"), Column("accuracy, %", bold=True)]
    columns += [Column("difference, points")] * compared + [Column("n")] + [Column(real[name]) for name in shown]
    rows = []
    for line, members in lines.items():
        done = [row for row in members if row.accuracies]
        cells = [text for text, wanted in zip(line, several, strict=True) if wanted]
        cells += _measured(done, protocols)
        cells += [spread(sweep.differences(line)).replace(ABSENT, "")] * compared
        cells.append(_count(members))
        cells += [_real(done, name) for name in shown]
        rows.append(tuple(cells))
    return Tabulation(tuple(columns), tuple(rows), _caption(sweep, compared), sweep.title, tuple(protocols))


def _measured(done: Sequence[SweepRow], protocols: Sequence[str]) -> list[str]:
    """Labels, number of the protocol's note, and accuracy of a line."""
    labels = ", ".join(dict.fromkeys(LABELS.get(row.labels, row.labels) for row in done if row.protocol))
    notes = ", ".join(dict.fromkeys(f"[{protocols.index(row.protocol) + 1}]" for row in done if row.protocol))
    return [labels or ABSENT, notes or ABSENT, spread([row.mean for row in done])]


def _count(members: Sequence[SweepRow]) -> str:
    """Whole runs × networks of each; the runs that there were to be, where some are missing."""
    done = [row for row in members if row.accuracies]
    if not done:
        return f"0 of {len(members)}"
    text = f"{len(done)} × {len(done[0].accuracies)}"
    if len(done) < len(members):
        text = f"{len(done)} of {len(members)} × {len(done[0].accuracies)}"
    return text


def _real(done: Sequence[SweepRow], name: str) -> str:
    values = [row.baselines[name] for row in done if name in row.baselines]
    if not values:
        return ""
    return spread(values)


def _caption(sweep: Sweep, compared: bool) -> str:
    words = ["Accuracy: mean of the runs' means ± their standard deviation over seeds"]
    if compared:
        words.append(
            "difference: the same of the differences with the same seed to the first method (of one method, to the "
            "first settings), only between runs of one protocol and one kind of labels"
        )
    words.append("n: whole runs × networks of each")
    if failed := len(sweep.of("failed")):
        words.append(f"{failed} of {len(sweep.rows)} runs failed")
    return f"{'; '.join(words)}."
