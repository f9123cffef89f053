"""Where an evaluation writes its scores, so that they replace neither the table of another run nor a larger table of
the same set."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.protocol import EvalRecipe
from ..evaluation.rows import TAUGHT
from ..evaluation.scores import RowScores, Scores, protocol_text
from ..report.current_scores import outdated
from ..report.run import MARKS
from ..report.sweep import Sweep
from ..runtime.errors import InputError
from ..runtime.files import read_json, reading
from ..runtime.run_dir import RunDir
from ..runtime.text import many

SHOWN = 5
"""Runs of a folder that an error names."""


@dataclass(frozen=True)
class TableRequest:
    """What an evaluation requests: networks per row, architectures, baselines, the random seed, the values that single
    baselines depend on, the recipe as it applies to the set (`rows.recipe_for`), and whether held-out images choose the
    learning rate of the set."""

    networks: int
    models: tuple[str, ...]
    baselines: tuple[str, ...]
    seed: int
    full_epochs: int | None
    temperature: float
    recipe: EvalRecipe
    searched: bool

    @property
    def name_parts(self) -> list[str]:
        """The parts of a folder name that distinguish this table from another."""
        labels = {
            "full": f"full-{self.full_epochs}-epochs" if self.full_epochs else "full",
            TAUGHT: f"teacher-{self.temperature:g}",
        }
        baselines = [labels.get(name, name) for name in self.baselines]
        return [many(self.networks, "network").replace(" ", "-"), *(baselines or ["no-baselines"])]


@dataclass(frozen=True)
class TableFolder:
    """The folder of a table, and the table itself if it has everything requested already."""

    folder: Path
    scores: Scores | None = None


def check_single(path: Path, verb: str) -> None:
    """Raise InputError for the folder of several runs, each of which has its own set."""
    sweep = Sweep.read(path) if path.is_dir() else None
    if sweep is not None:
        runs = [str(path / row.folder) for row in sweep.rows]
        listed = ", ".join(runs[:SHOWN]) + ", …" * (len(runs) > SHOWN)
        raise InputError(f"{path} holds several runs ({listed}); name one of them: astdistill {verb} {runs[0]}")


def check_out(folder: Path, path: Path) -> None:
    """Raise InputError if the scores of the set in `path` may not be written to `folder` (from --out): it is the folder
    of a run or a set, lies in the run of another set, or has a scores.json of another set."""
    place, source = RunDir(folder), RunDir.around(path)
    mark = next((name for name in MARKS if (folder / name).exists()), None)
    if mark is not None:
        same_run = folder.resolve() == source.folder.resolve()
        reason = "is the folder of a run" if same_run else f"holds another run or set ({mark})"
        raise InputError(
            f"--out {folder} {reason}, whose scores would be replaced; leave --out out, or name a new folder, for "
            f"example --out {source.evaluation('again').folder}"
        )
    parent, file = RunDir(folder.parent), path if path.is_file() else source.synthetic
    if parent.folder.resolve() == source.folder.resolve():
        return
    if parent.synthetic.exists():
        raise InputError(
            f"--out {folder} lies in the run {parent.folder}, but the set is {file}; name a folder elsewhere, for "
            f"example --out {source.evaluation('again').folder}"
        )
    if place.scores.exists():
        Scores.read(place.scores)  # raises for a file of another program
    if outdated(place, [file]):
        raise InputError(
            f"--out {folder} holds the scores of another set than {file}; name a new folder, for example "
            f"--out {folder}-2"
        )


def choose_folder(folder: Path, named: bool, request: TableRequest, sets: Sequence[Path]) -> TableFolder:
    """Where the table is written. Its default folder is `folder`, which comes from --out if `named`.

    An existing table of these sets that has everything requested is kept, with all its rows. A table that would lose
    something is also kept, and the new one gets another folder. Raises InputError if that is not possible because --out
    was named.
    """
    existing = _existing_scores(RunDir(folder), sets)
    if existing is None:
        return TableFolder(folder)
    rows, comparable = _rows(existing), _comparable(existing, RunDir(folder), request)
    requested = {*request.models, *request.baselines}
    if comparable and all(name in requested and row.n <= request.networks for name, row in rows.items()):
        return TableFolder(folder)
    if comparable and requested <= rows.keys() and all(row.n >= request.networks for row in rows.values()):
        return TableFolder(folder, existing)
    if named:
        protocol = ""
        if not _same_protocol(existing, request):
            protocol = f" ({protocol_text(existing.recipe, existing.split, bool(existing.rates))})"
        raise InputError(
            f"--out {folder} holds a table of {table_text(existing)}{protocol}, which this one would replace; name a "
            f"new folder, for example --out {folder}-2"
        )
    return TableFolder(folder.with_name("-".join([folder.name, *request.name_parts])))


def _existing_scores(run: RunDir, sets: Sequence[Path]) -> Scores | None:
    """The scores in a folder, if they belong to one of the sets."""
    if not run.scores.exists() or outdated(run, sets):
        return None
    scores = Scores.read(run.scores)
    if not scores.architecture:
        return None
    return scores


def _rows(scores: Scores) -> dict[str, RowScores]:
    """All rows by name, including the baseline with a teacher's labels."""
    rows = {**scores.architecture, **scores.baselines}
    if scores.taught is not None:
        rows[TAUGHT] = scores.taught.row
    return rows


def _comparable(existing: Scores, run: RunDir, request: TableRequest) -> bool:
    """Whether the table has the networks that would be trained again: the same protocol, the same seed, as far as it is
    known, and baselines with the same epochs and temperature."""
    if not _same_protocol(existing, request):
        return False
    shared = set(request.baselines) & _rows(existing).keys()
    if "full" in shared and existing.recipe.epochs_on_full_data != request.full_epochs:
        return False
    if TAUGHT in shared and existing.taught is not None and existing.taught.teacher.temperature != request.temperature:
        return False
    return _seeds(existing, run) <= {request.seed}


def _same_protocol(existing: Scores, request: TableRequest) -> bool:
    """Whether the rows were measured as requested. The number of networks and the epochs on full data are compared
    elsewhere, because not every row depends on them."""
    elsewhere: dict[str, Any] = {"networks": request.recipe.networks, "full_epochs": request.recipe.full_epochs}
    return existing.recipe.replace(**elsewhere) == request.recipe and bool(existing.rates) == request.searched


def _seeds(scores: Scores, run: RunDir) -> set[int]:
    """The seed of a table. In the folder of an earlier version: the seeds of all networks trained there."""
    if scores.seed is not None:
        return {scores.seed}
    if not run.networks.exists():
        return set()
    with reading(run.networks, "results of networks", "restore it, or name a new folder with --out"):
        return {network["about"].get("seed", 0) for network in read_json(run.networks)["networks"].values()}


def table_text(scores: Scores) -> str:
    """A description of a table: networks and baselines."""
    counts = [row.n for row in _rows(scores).values()]
    names = [name for name in _rows(scores) if name not in scores.architecture]
    baselines = f", with the baselines {' '.join(names)}" if names else ""
    return f"{many(max(counts), 'network')} a row ({shlex.join(scores.architecture)}{baselines})"
