"""A run folder as reports read it: the whole of it for the page, and finished results for comparisons."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..data.synthetic import SyntheticSet
from ..distillation.snapshots import Frame, StartMap, read_course
from ..evaluation.continual import Continual
from ..evaluation.dd_ranking import Ranking
from ..evaluation.scores import Entry, Published, Scores, Subject
from ..methods.outer_step import OuterStep, TrajectoryMatching
from ..runtime.config import by_todays_names, find_part
from ..runtime.errors import InputError
from ..runtime.files import read_json, read_lines
from ..runtime.provenance import as_shown
from ..runtime.status import FILE as CLOCK
from .relatives import Relative, read_experts


@dataclass(frozen=True)
class Finished:
    """Scores with whose they are, and the figure that was published for the same cell, if any."""

    name: str
    path: Path
    scores: Scores
    subject: Subject
    published: Published

    @property
    def network(self) -> str:
        """The network that the run's own column shows: its student, or else the first that was evaluated."""
        return (
            self.subject.model
            if self.subject.model in self.scores.architecture
            else next(iter(self.scores.architecture))
        )

    @property
    def entry(self) -> Entry:
        """The networks of the run's own column."""
        return self.scores.architecture[self.network]

    @property
    def baselines(self) -> dict[str, Entry]:
        """Real images on that network; the evaluation trains them on its first one alone."""
        return self.scores.baselines if self.network == next(iter(self.scores.architecture)) else {}


def read_run(path: Path) -> Finished:
    """The run in `path`: a run folder, an evaluation folder inside one, or its scores.json.

    Raises InputError for a folder that is not there, has no scores yet, or lies beside no distilled set.
    """
    folder = path.parent if path.name == "scores.json" else path
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; name finished runs, for example: astdistill compare runs/*")
    home = folder if (folder / "synthetic.safetensors").exists() else folder.parent
    if not (folder / "scores.json").exists():
        known = (folder / "synthetic.safetensors").exists()
        remedy = (
            f"evaluate it first: astdistill evaluate {folder}"
            if known
            else "name finished runs: astdistill compare runs/*"
        )
        raise InputError(f"{folder} holds no scores.json; {remedy}")
    scores = Scores.read(folder)
    if not scores.architecture:
        raise InputError(
            f"{folder} has no finished network of the distilled set yet; go on with: astdistill evaluate {home}"
        )
    subject = scores.subject or Subject.of(_set_of(folder, home))
    config = read_json(home / "config.json") if (home / "config.json").exists() else {}
    published = Published.model_validate(config.get("published", {}))
    name = home.name if (home / "config.json").exists() else folder.name
    return Finished(name, folder, scores, subject, published)


def _set_of(folder: Path, home: Path) -> SyntheticSet:
    """The distilled set that scores of an earlier version belong to: they do not say so themselves."""
    if not (home / "synthetic.safetensors").exists():
        raise InputError(
            f"{folder / 'scores.json'} does not say what it is about; evaluate again: astdistill evaluate SET --out "
            f"{folder}"
        )
    return SyntheticSet.load(home)


Found = TypeVar("Found")
MARKS = ("config.json", "synthetic.safetensors", "metrics.jsonl", "state.safetensors")
"""One of these makes a folder a run."""


@dataclass(frozen=True)
class RunFolder:
    """What a run has left; None or empty for what it has not."""

    folder: Path
    name: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    synthetic: SyntheticSet | None
    scores: Scores | None
    other_scores: dict[str, Scores]
    """Further evaluations of the same set, by the name of their folder; so are the next two."""
    ranking: dict[str, Ranking]
    arriving: dict[str, Continual]
    metrics: list[dict[str, Any]]
    clock: list[dict[str, Any]]
    frames: list[Frame]
    start: StartMap | None
    experts: list[Relative]

    @property
    def entry(self) -> Entry | None:
        """The scores of the first network."""
        return next(iter(self.scores.architecture.values()), None) if self.scores else None

    @property
    def ending(self) -> str:
        """What the last frame is: the end of the run, or the set that held-out images chose."""
        return "chosen on held-out images" if (self.folder / "last.safetensors").exists() else "final"

    @property
    def method(self) -> str:
        return (
            self.synthetic.method if self.synthetic else self.config.get("method", {}).get("name")
        ) or "unknown method"

    @property
    def step(self) -> type[OuterStep]:
        """What its outer steps were, as far as its settings say so: one of another package may not be here."""
        named = (self.config.get("method") or {}).get("step")
        if named is None:
            return TrajectoryMatching
        try:
            found = find_part(named["part"])
        except InputError:
            return OuterStep
        return found if isinstance(found, type) and issubclass(found, OuterStep) else OuterStep

    @property
    def learns_lr(self) -> bool:
        """Whether η was learned, as it is where the settings say nothing."""
        return "lr" in (self.config.get("method") or {}).get("learn", ("lr",))

    @property
    def has_experts(self) -> bool:
        """Whether its method trains experts, as it does where the settings say nothing."""
        return (self.config.get("method") or {}).get("expert", {}) is not None

    @property
    def place(self) -> str:
        """The folder, as a page may name it."""
        return as_shown(self.folder)

    def word(self, verb: str) -> str:
        """`astdistill VERB <this run>`, to be typed."""
        return shlex.join(["astdistill", verb, self.place])


def read_folder(folder: str | Path) -> RunFolder:
    """The run in `folder`. Raises InputError with one sentence where there is none."""
    folder = Path(folder)
    _check(folder)
    config = by_todays_names(_optional(folder / "config.json"))
    synthetic = SyntheticSet.load(folder) if (folder / "synthetic.safetensors").exists() else None
    found = {
        name: scores for name, scores in _evaluations(folder, "scores.json", Scores.read).items() if scores.architecture
    }
    first = next(iter(found), None)
    return RunFolder(
        folder=folder,
        name=folder.resolve().name,
        config=config,
        provenance=_optional(folder / "provenance.json") or (synthetic.provenance if synthetic else {}),
        synthetic=synthetic,
        scores=None if first is None else found.pop(first),
        other_scores=found,
        ranking=_evaluations(folder, "ranking.json", Ranking.read),
        arriving=_evaluations(folder, "continual.json", Continual.read),
        metrics=read_lines(folder / "metrics.jsonl"),
        clock=read_lines(folder / CLOCK),
        frames=_frames(folder, synthetic),
        start=StartMap.read(folder),
        experts=read_experts(folder),
    )


def run_of(folder: Path) -> Path | None:
    """The run whose page shows an evaluation in `folder`: that folder or the one around it; None where neither holds a
    distilled set."""
    return next((each for each in (folder, folder.parent) if (each / "synthetic.safetensors").exists()), None)


def _check(folder: Path) -> None:
    if any((folder / mark).exists() for mark in MARKS):
        return
    if not folder.is_dir():
        raise InputError(
            f"There is no folder {folder}; name a run, for example runs/demo, or make one with: astdistill demo"
        )
    inside = sorted({path.parent for mark in MARKS for path in folder.glob(f"*/{mark}")})
    if inside:
        raise InputError(
            f"{folder} is no run but holds some; name them: {shlex.join(['astdistill', 'report', *map(str, inside)])}"
        )
    raise InputError(
        f"{folder} holds no run (no config.json, no synthetic.safetensors); make one with: astdistill run PRESET --out "
        f"FOLDER"
    )


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _evaluations(folder: Path, file: str, read: Callable[[Path], Found]) -> dict[str, Found]:
    """What the evaluations of the run left in `file`, by the name of their folder: the run's own first, then the
    latest."""
    own = [folder / file] if (folder / file).exists() else []
    later = sorted(folder.glob(f"*/{file}"), key=lambda path: path.stat().st_mtime, reverse=True)
    return {path.parent.name: read(path) for path in own + later}


def _frames(folder: Path, synthetic: SyntheticSet | None) -> list[Frame]:
    """The course of the images up to and including the set that was saved."""
    course = read_course(folder)
    if synthetic is None:
        return course
    last = int(synthetic.provenance.get("iteration", course[-1].iteration + 1 if course else 0))
    return [frame for frame in course if frame.iteration < last] + [Frame.of(synthetic, last)]
