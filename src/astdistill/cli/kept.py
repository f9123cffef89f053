"""Where the scores of an evaluation go, so that it replaces neither another run's table nor a larger one of its own."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..evaluation.rows import TAUGHT
from ..evaluation.scores import RowScores, Scores
from ..report.run import MARKS
from ..report.sweep import Sweep
from ..report.whose import outdated
from ..runtime.errors import InputError
from ..runtime.files import read_json, reading
from ..runtime.run_dir import RunDir
from ..runtime.text import many

SHOWN = 5
"""Runs of a folder that are named."""


@dataclass(frozen=True)
class Asked:
    """What an evaluation is asked for: networks a row, their names, baselines, the seed of all draws, and what single
    baselines depend on besides."""

    networks: int
    models: tuple[str, ...]
    baselines: tuple[str, ...]
    seed: int
    full_epochs: int | None
    temperature: float

    @property
    def words(self) -> list[str]:
        """What tells its folder from that of another table."""
        words = {
            "full": f"full-{self.full_epochs}-epochs" if self.full_epochs else "full",
            TAUGHT: f"teacher-{self.temperature:g}",
        }
        baselines = [words.get(name, name) for name in self.baselines]
        return [many(self.networks, "network").replace(" ", "-"), *(baselines or ["no-baselines"])]


@dataclass(frozen=True)
class Place:
    """The folder of a table, and the table itself where it has all that is asked for already."""

    folder: Path
    scores: Scores | None = None


def check_single(path: Path, verb: str) -> None:
    """Raise InputError for the folder of several runs, which hold a set each."""
    several = Sweep.read(path) if path.is_dir() else None
    if several is not None:
        runs = [str(path / row.folder) for row in several.rows]
        shown = ", ".join(runs[:SHOWN]) + ", …" * (len(runs) > SHOWN)
        raise InputError(f"{path} holds several runs ({shown}); name one of them: astdistill {verb} {runs[0]}")


def check_place(folder: Path, path: Path) -> None:
    """Raise InputError where the scores of the set in `path` may not go to `folder`, which --out names: it is a run's
    or a set's own, or lies in a run of another set, or has a scores.json of another one."""
    place, source = RunDir(folder), RunDir.around(path)
    mark = next((name for name in MARKS if (folder / name).exists()), None)
    if mark is not None:
        own = folder.resolve() == source.folder.resolve()
        whose = "is the folder of a run" if own else f"holds another run or set ({mark})"
        raise InputError(
            f"--out {folder} {whose}, whose scores would be replaced; leave --out out, or name a new folder, for "
            f"example --out {source.evaluation('again').folder}"
        )
    home, file = RunDir(folder.parent), path if path.is_file() else source.synthetic
    if home.folder.resolve() == source.folder.resolve():
        return
    if home.synthetic.exists():
        raise InputError(
            f"--out {folder} lies in the run {home.folder}, but the set is {file}; name a folder elsewhere, for "
            f"example --out {source.evaluation('again').folder}"
        )
    if place.scores.exists():
        Scores.read(place.scores)  # a file of another program is not replaced
    if outdated(place, [file]):
        raise InputError(
            f"--out {folder} holds the scores of another set than {file}; name a new folder, for example "
            f"--out {folder}-2"
        )


def placed(folder: Path, named: bool, asked: Asked, sets: Sequence[Path]) -> Place:
    """Where the table goes, whose usual folder is `folder`, or that of --out where it was `named`.

    A table of these sets that has all that was asked for stays as it is, with what it has beyond that; one that would
    lose something stays, too, and the new one gets a folder of its own. Raises InputError where that is not possible,
    as --out was named.
    """
    there = _table(RunDir(folder), sets)
    if there is None:
        return Place(folder)
    rows, same = _rows(there), _comparable(there, RunDir(folder), asked)
    wanted = {*asked.models, *asked.baselines}
    if same and all(name in wanted and row.n <= asked.networks for name, row in rows.items()):
        return Place(folder)
    if same and wanted <= rows.keys() and all(row.n >= asked.networks for row in rows.values()):
        return Place(folder, there)
    if named:
        raise InputError(
            f"--out {folder} holds a table of {table_text(there)}, which this one would replace; name a new folder, "
            f"for example --out {folder}-2"
        )
    return Place(folder.with_name("-".join([folder.name, *asked.words])))


def _table(place: RunDir, sets: Sequence[Path]) -> Scores | None:
    """The scores in a folder, where they are of one of the sets."""
    if not place.scores.exists() or outdated(place, sets):
        return None
    scores = Scores.read(place.scores)
    if not scores.architecture:
        return None
    return scores


def _rows(scores: Scores) -> dict[str, RowScores]:
    """All rows by name; that of a teacher's labels is a baseline, too."""
    rows = {**scores.architecture, **scores.baselines}
    if scores.taught is not None:
        rows[TAUGHT] = scores.taught.row
    return rows


def _comparable(there: Scores, place: RunDir, asked: Asked) -> bool:
    """Whether the networks of the table are those that would be trained again: of the same seed, as far as anybody can
    tell, and baselines of the same epochs and temperature."""
    both = set(asked.baselines) & _rows(there).keys()
    if "full" in both and there.recipe.epochs_on_full_data != asked.full_epochs:
        return False
    if TAUGHT in both and there.taught is not None and there.taught.teacher.temperature != asked.temperature:
        return False
    return _seeds(there, place) <= {asked.seed}


def _seeds(there: Scores, place: RunDir) -> set[int]:
    """The seed of a table; in the folder of an earlier version those of all networks that it has trained."""
    if there.seed is not None:
        return {there.seed}
    if not place.networks.exists():
        return set()
    with reading(place.networks, "results of networks", "restore it, or name a new folder with --out"):
        return {network["about"].get("seed", 0) for network in read_json(place.networks)["networks"].values()}


def table_text(there: Scores) -> str:
    """A table in words: networks and baselines."""
    counts = [row.n for row in _rows(there).values()]
    names = [name for name in _rows(there) if name not in there.architecture]
    beside = f", with the baselines {' '.join(names)}" if names else ""
    return f"{many(max(counts), 'network')} a row ({shlex.join(there.architecture)}{beside})"
