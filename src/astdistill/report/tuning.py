"""Results of a search for learning rates: its trials, from which a file and a page are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from ..runtime.config import Record
from ..runtime.errors import InputError, flag_name, refused
from ..runtime.files import read_json, write_json
from ..runtime.tables import ABSENT, Column, Tabulation

FILE, PAGE, CONFIG = "tuning.json", "report.html", "tuned.yaml"
"""Names in the folder of a search: its results, its page, and the settings that it found, in the format of
`--config`."""
SHOWN = 10
"""Trials in the table of the terminal; the page has all."""
Outcome = Literal["complete", "pruned", "diverged"]


class TrialRecord(Record):
    """One trial."""

    number: int
    values: dict[str, float]
    """What was tried, by the dotted names of settings."""
    outcome: Outcome
    accuracies: dict[int, float]
    """Held-out accuracy in percent, by the outer steps after which it was measured."""
    judged: float | None = None
    """For the finalists: held-out accuracy of other and more networks."""
    seconds: float | None = None

    @property
    def last(self) -> float:
        """The held-out accuracy after the last outer step that was judged; 0 if none was, or if the trial diverged."""
        if self.outcome == "diverged" or not self.accuracies:
            return 0.0
        return self.accuracies[max(self.accuracies)]

    @property
    def last_step(self) -> int:
        """The outer steps after which it was judged last."""
        return max(self.accuracies, default=0)


class Tuning(Record):
    """A search: its settings, its ranges, and its finished trials."""

    experiment: dict[str, Any]
    """The settings of every trial, but for what is searched."""
    fingerprint: str
    """Of the training data."""
    steps: int
    """Outer steps of the longest trial."""
    also: tuple[str, ...] = ()
    asked: int = 0
    """Trials."""
    ranges: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """Where each setting was looked for."""
    held_out: int = 0
    """Images that judge: none of them was seen by experts or by a distillation."""
    networks: int = 0
    """Networks of each judgement of a trial, and, under `finalist_networks`, of a finalist's."""
    finalist_networks: int = 0
    trials: tuple[TrialRecord, ...] = ()
    flags: str = ""
    """The winner as the words of a command line."""
    command: str = ""
    """Runs the preset with what was found."""

    @property
    def ranked(self) -> list[TrialRecord]:
        """The trials, best first: finalists by their second accuracy, then the others by outer steps and accuracy."""
        return sorted(self.trials, key=lambda trial: (trial.judged or 0.0, trial.last_step, trial.last), reverse=True)

    @property
    def winner(self) -> TrialRecord | None:
        """The best trial that is complete; None if there is none."""
        return next((trial for trial in self.ranked if trial.outcome == "complete"), None)

    def save(self, folder: Path) -> None:
        """Write `folder`/tuning.json."""
        write_json(folder / FILE, self.to_json())

    @staticmethod
    def read(folder: Path) -> Tuning | None:
        """Read what `save` wrote; None if there is no such file. Raises InputError if the file has another format."""
        path = folder / FILE
        if not path.exists():
            return None
        try:
            return Tuning.model_validate(read_json(path))
        except ValidationError as error:
            raise InputError(
                f"{path} is no search for rates ({refused(error)}); name a new folder with --out."
            ) from error


def flags_of(values: Mapping[str, float]) -> list[str]:
    """Command-line arguments that set these values."""
    return [argument for name, value in values.items() for argument in (flag_name(name), f"{value:g}")]


def trials_table(tuning: Tuning, most: int | None = SHOWN) -> Tabulation:
    """The trials, best first: at most `most` of them, or all if it is None."""
    names = list(tuning.ranges)
    columns = [Column("trial"), *(Column(short(name)) for name in names)]
    columns += [Column("steps"), Column("accuracy"), Column("finalists"), Column("outcome", left_aligned=True)]
    rows = tuple(_row(trial, names) for trial in tuning.ranked[:most])
    caption = (
        f"Accuracy in % on {tuning.held_out:,} held-out training images, n = {tuning.networks}; the finalists again, "
        f"by other networks, n = {tuning.finalist_networks}. {len(tuning.trials)} trials of at most {tuning.steps} "
        "outer steps."
    )
    return Tabulation(tuple(columns), rows, caption)


def _row(trial: TrialRecord, names: Sequence[str]) -> tuple[str, ...]:
    judged = ABSENT
    if trial.judged is not None:
        judged = f"{trial.judged:.1f}"
    values = [f"{trial.values[name]:.3g}" for name in names]
    return (str(trial.number), *values, str(trial.last_step), f"{trial.last:.1f}", judged, trial.outcome)


def short(name: str) -> str:
    """A setting's name without the record that it lies in."""
    return name.rpartition(".")[2]
