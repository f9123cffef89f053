"""Results of a sweep of whole runs: its rows, from which a file, tables and a page are made. Nothing here imports
torch, so that `astdistill watch` starts at once."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from ..runtime.config import FINITE, Record
from ..runtime.errors import InputError, refused
from ..runtime.files import read_json, write_json
from ..runtime.run_dir import SEEDS
from ..runtime.tables import ABSENT, Column, Tabulation, spread

FILE, PAGE, STEM = "sweep.json", "report.html", "sweep"
FORMER_FILES = (SEEDS, "ablation.json")
"""What `run --seeds` and `run ablation` of earlier versions wrote in place of `FILE`."""
WRITTEN_LAST = (PAGE, *(f"{STEM}{ending}" for ending in (".txt", ".md", ".tex")))
"""The files that a sweep writes when its rows are done."""
"""Names in the folder of a sweep: its results, its page, and the stem of the files with its table."""
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
        """Mean accuracy over its networks."""
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
        """Read what `save` wrote; None if there is no such file. Raises InputError if the file has another format."""
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
        """The sweep with `row` in place of the row that has the same folder."""
        return self.replace(rows=tuple(row if row.folder == each.folder else each for each in self.rows))

    def lines(self) -> dict[Line, tuple[SweepRow, ...]]:
        """The rows by their line of the table."""
        by_line: dict[Line, list[SweepRow]] = {}
        for row in self.rows:
            by_line.setdefault(row.line, []).append(row)
        return {line: tuple(rows) for line, rows in by_line.items()}

    def first(self, line: Line) -> Line:
        """The line that another is compared with: the first method with the same preset and settings, or, if there is
        only one method, the first settings."""
        lines = list(self.lines())
        same = [other for other in lines if (other[0], other[2]) == (line[0], line[2])]
        if len({method for _, method, _ in lines}) == 1:
            same = [other for other in lines if other[0] == line[0]]
        return same[0]

    def differences(self, line: Line) -> tuple[float, ...]:
        """By seed, the accuracy of the line minus that of its first line, in points. Runs with another protocol or
        other labels are left out; empty for the first line itself."""
        first = self.first(line)
        if first == line:
            return ()
        lines = self.lines()
        first_means = {(row.seed, row.protocol, row.labels): row.mean for row in lines[first] if row.accuracies}
        pairs = [(row, (row.seed, row.protocol, row.labels)) for row in lines[line] if row.accuracies]
        return tuple(row.mean - first_means[key] for row, key in pairs if key in first_means)


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
    varies = [len({line[number] for line in lines}) > 1 for number in range(3)]
    varies[1] = True
    names_of_baselines = BASELINES | TAUGHT
    baselines = [name for name in names_of_baselines if any(name in row.baselines for row in sweep.rows)]
    compared = len({sweep.first(line) for line in lines}) < len(lines)
    names = ("preset", "method", "settings")
    columns = [Column(name, left_aligned=True) for name, included in zip(names, varies, strict=True) if included]
    columns += [Column("labels", left_aligned=True), Column("protocol"), Column("accuracy, %", bold=True)]
    columns += (
        [Column("difference, points")] * compared
        + [Column("n")]
        + [Column(names_of_baselines[name]) for name in baselines]
    )
    rows = []
    for line, members in lines.items():
        finished = [row for row in members if row.accuracies]
        cells = [text for text, included in zip(line, varies, strict=True) if included]
        cells += _measured_cells(finished, protocols)
        cells += [spread(sweep.differences(line)).replace(ABSENT, "")] * compared
        cells.append(_count(members))
        cells += [_baseline_cell(finished, name) for name in baselines]
        rows.append(tuple(cells))
    return Tabulation(tuple(columns), tuple(rows), _caption(sweep, compared), sweep.title, tuple(protocols))


def _measured_cells(finished: Sequence[SweepRow], protocols: Sequence[str]) -> list[str]:
    """Cells of a line: labels, numbers of the protocols' notes, and accuracy."""
    labels = ", ".join(dict.fromkeys(LABELS.get(row.labels, row.labels) for row in finished if row.protocol))
    notes = ", ".join(dict.fromkeys(f"[{protocols.index(row.protocol) + 1}]" for row in finished if row.protocol))
    return [labels or ABSENT, notes or ABSENT, spread([row.mean for row in finished])]


def _count(members: Sequence[SweepRow]) -> str:
    """Whole runs × networks of each, with the number of planned runs if some are missing."""
    finished = [row for row in members if row.accuracies]
    if not finished:
        return f"0 of {len(members)}"
    text = f"{len(finished)} × {len(finished[0].accuracies)}"
    if len(finished) < len(members):
        text = f"{len(finished)} of {len(members)} × {len(finished[0].accuracies)}"
    return text


def _baseline_cell(finished: Sequence[SweepRow], name: str) -> str:
    values = [row.baselines[name] for row in finished if name in row.baselines]
    if not values:
        return ""
    return spread(values)


def _caption(sweep: Sweep, compared: bool) -> str:
    notes = ["Accuracy: mean of the runs' means ± their standard deviation over seeds"]
    if compared:
        notes.append(
            "difference: mean ± standard deviation of the differences to the first method (of one method, to the first "
            "settings) with the same seed, only between runs of one protocol and one kind of labels"
        )
    notes.append("n: runs × networks per run")
    if failed := len(sweep.of("failed")):
        notes.append(f"{failed} of {len(sweep.rows)} runs failed")
    return f"{'; '.join(notes)}."
