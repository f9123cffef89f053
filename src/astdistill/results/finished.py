"""A finished run, or one evaluation of it, read back from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..evaluation import Entry, Scores, Subject
from ..experiment import Published
from ..runs import read_json
from ..synthetic import SyntheticSet


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
        return self.subject.model if self.subject.model in self.scores.architecture else next(iter(self.scores.architecture))

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
        remedy = f"evaluate it first: astdistill evaluate {folder}" if known else "name finished runs: astdistill compare runs/*"
        raise InputError(f"{folder} holds no scores.json; {remedy}")
    scores = Scores.read(folder)
    if not scores.architecture:
        raise InputError(f"{folder} has no finished network of the distilled set yet; go on with: astdistill evaluate {home}")
    subject = scores.subject or Subject.of(_set_of(folder, home))
    config = read_json(home / "config.json") if (home / "config.json").exists() else {}
    published = Published.model_validate(config.get("published", {}))
    name = home.name if (home / "config.json").exists() else folder.name
    return Finished(name, folder, scores, subject, published)


def _set_of(folder: Path, home: Path) -> SyntheticSet:
    """The distilled set that scores of an earlier version belong to: they do not say so themselves."""
    if not (home / "synthetic.safetensors").exists():
        raise InputError(f"{folder / 'scores.json'} does not say what it is about; evaluate again: astdistill evaluate SET --out {folder}")
    return SyntheticSet.load(home)
