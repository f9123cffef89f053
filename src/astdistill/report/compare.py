"""Runs beside published figures and baselines. One table for each protocol and kind of labels: neither is ever mixed in
a column."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..evaluation.protocol import MTT_PROTOCOL, PROTOCOLS, EvalRecipe
from ..evaluation.scores import (
    LABELS,
    MAJORITY_NAME,
    Published,
    RowScores,
    Scores,
    SetInfo,
    best_name,
    best_text,
    networks_text,
    protocol_text,
    spread,
)
from ..runtime.config import digest
from ..runtime.errors import InputError
from ..runtime.files import read_json, reading
from ..runtime.run_dir import FREE, SEEDS, RunDir, flat
from ..runtime.status import size
from ..runtime.tables import ABSENT, Column, Tabulation, deviation
from .run import RunReader
from .sweep import BASELINES, FILE, PAGE, STEM, Sweep
from .whose import current, outdated, said, sets_of

WHOSE = tuple(
    Column(name, words=True, whole=name in ("ipc", "stored"))
    for name in ("run", "data", "ipc", "images a slot", "stored", "labels", "protocol", "method", "network")
)
BESIDE = (SEEDS, FILE, PAGE, *(f"{STEM}{ending}" for ending in (".txt", ".md", ".tex")))
"""Files that lie beside the runs of a sweep."""


@dataclass(frozen=True)
class Finished:
    """Scores with whose they are, and the figure that was published for the same cell, if any."""

    name: str
    path: Path
    scores: Scores
    subject: SetInfo
    published: Published
    settings: str = ""
    """A digest of what decides the run's result, without its seeds; '' where nobody says."""
    seed: int = 0
    runs: int = 1
    """Whole runs behind each figure, where these are means over runs."""

    @property
    def count(self) -> str:
        """How many networks, of how many runs, stand behind the run's own figure."""
        if self.runs > 1:
            return f"{self.runs} runs"
        return str(self.entry.n)

    @property
    def network(self) -> str:
        """The network that the run's own column shows: its student, or else the first that was evaluated."""
        if self.subject.model in self.scores.architecture:
            return self.subject.model
        return next(iter(self.scores.architecture))

    @property
    def entry(self) -> RowScores:
        """The networks of the run's own column."""
        return self.scores.architecture[self.network]

    @property
    def baselines(self) -> dict[str, RowScores]:
        """Real images on that network; the evaluation trains them on its first one alone."""
        if self.network != next(iter(self.scores.architecture)):
            return {}
        return self.scores.baselines


def read_finished(path: Path) -> Finished:
    """The scores in `path`: a run folder, an evaluation folder inside one, or its scores.json.

    Raises InputError for a folder that is not there, has no scores of its present set yet, or lies beside no distilled
    set.
    """
    evaluation = _evaluation(path)
    folder = evaluation.folder
    run = RunReader.of((evaluation.home() or RunDir(folder.parent)).folder)
    scores = Scores.read(evaluation.scores)
    if not scores.architecture:
        raise InputError(
            f"{folder} has no finished network of the distilled set yet; "
            f"go on with: astdistill evaluate {run.dir.folder}"
        )
    subject = scores.subject or _subject(run, evaluation)
    name = folder.name
    if run.config:
        name = run.dir.folder.name
    settings = ""
    if run.config:
        settings = _settings(run.config, scores)
    return Finished(name, folder, scores, subject, run.published, settings, int(run.config.get("seed", 0)))


def _evaluation(path: Path) -> RunDir:
    """The folder of the scores in `path`; of a run without scores of its present set, its latest evaluation. Raises
    InputError as `read_finished`."""
    named = RunDir(path)
    if path.name == RunDir.scores:
        named = RunDir(path.parent)
    folder = named.folder
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; name finished runs, for example: astdistill compare runs/*")
    if named.synthetic.exists() and (found := current(named)) is not None:
        return found
    again = shlex.join(["astdistill", "evaluate", str((named.home() or named).folder)])
    if named.scores.exists():
        if outdated(named, sets_of(named, named.home() or named)):
            raise InputError(said(folder, again))
        return named
    if named.begun:
        raise InputError(named.not_finished)
    remedy = "name finished runs: astdistill compare runs/*"
    if named.synthetic.exists():
        remedy = f"evaluate it first: {again}"
    raise InputError(f"{folder} holds no scores.json; {remedy}")


def runs_in(path: Path) -> list[Path]:
    """The finished runs of a sweep's folder, or those that `run --seeds` of an earlier version wrote, in the order of
    their seeds; any other path alone."""
    if path.parent.is_dir() and path.name in BESIDE:  # as runs/NAME-seeds/* names it beside the runs themselves
        return []
    if (known := Sweep.read(path)) is not None:
        return [path / row.folder for row in known.of("finished")]
    if not (path / SEEDS).exists():
        return [path]
    with reading(path / SEEDS, "what runs over seeds reach", "type their command again, which writes it anew"):
        return [path / f"seed-{int(seed)}" for seed in read_json(path / SEEDS).get("seeds", ())]


def _settings(config: dict[str, Any], scores: Scores) -> str:
    """A digest of the settings that decide a result, without the two seeds and what is free to differ."""
    kept = {name: value for name, value in flat(config).items() if not name.startswith((*FREE, "name"))}
    decisive = {name: value for name, value in kept.items() if name not in ("seed", "experts.seed")}
    rows = sorted({*scores.architecture, *scores.baselines})
    return digest([decisive, scores.recipe.to_json(), scores.split, rows])


def over_seeds(runs: Sequence[Finished]) -> list[Finished]:
    """The runs, of which those that differ in their seed alone are one: its figures are the means of each run."""
    alike: dict[tuple[str, str, int], list[Finished]] = {}
    for run in {run.path.resolve(): run for run in runs}.values():
        kind = run.settings or str(run.path)
        number = 0
        while run.seed in [other.seed for other in alike.get((kind, run.subject.data, number), ())]:
            number += 1  # a second run with the same seed belongs to other runs
        alike.setdefault((kind, run.subject.data, number), []).append(run)
    return [_mean_of(members) for members in alike.values()]


def _mean_of(runs: Sequence[Finished]) -> Finished:
    if len(runs) == 1:
        return runs[0]
    first, tables = runs[0], ("architecture", "baselines")
    rows: dict[str, Any] = {
        table: {
            name: _row_over([getattr(run.scores, table)[name] for run in runs]) for name in getattr(first.scores, table)
        }
        for table in tables
    }
    taught = [run.scores.taught for run in runs if run.scores.taught is not None]
    if taught:
        rows["taught"] = taught[0].replace(row=_row_over([each.row for each in taught]))
    name = f"{first.name} and {len(runs) - 1} more"
    if {run.path.parent for run in runs} == {first.path.parent} and all(run.name == f"seed-{run.seed}" for run in runs):
        name = first.path.resolve().parent.name
    return replace(first, name=name, scores=first.scores.replace(**rows), runs=len(runs))


def _row_over(entries: Sequence[RowScores]) -> RowScores:
    """The means of the runs in the place of the accuracies of networks."""

    def means(name: str) -> tuple[float, ...] | None:
        values = [getattr(entry, name) for entry in entries]
        if not all(values):
            return None
        return tuple(map(statistics.fmean, values))

    each = tuple(entry.mean for entry in entries)
    return RowScores(
        final=means("final") or each,
        best=means("best"),
        balanced=means("balanced"),
        mean=statistics.fmean(each),
        std=deviation(each),
        n=len(each),
        diverged=sum(entry.diverged for entry in entries),
    )


def _subject(run: RunReader, evaluation: RunDir) -> SetInfo:
    """What scores of an earlier version are about: they do not say so themselves."""
    if run.synthetic is None:
        raise InputError(
            f"{evaluation.scores} does not say what it is about; "
            f"evaluate again: astdistill evaluate SET --out {evaluation.folder}"
        )
    return SetInfo.of(run.synthetic)


@dataclass(frozen=True)
class Group:
    """Runs whose figures may stand in one column."""

    labels: str
    per_slot: int
    recipe: EvalRecipe
    split: str
    searched: bool
    """Whether held-out images chose the learning rate, rather than the distillation or the protocol."""
    runs: tuple[Finished, ...]

    @property
    def title(self) -> str:
        name = LABELS[self.labels].capitalize()
        if self.per_slot > 1:
            name += f", {self.per_slot} images a slot"
        return name

    @property
    def measured(self) -> str:
        """How all figures of the group were measured."""
        return f"{protocol_text(self.recipe, self.split, self.searched)}, last epoch"


def compared(runs: Sequence[Finished]) -> list[Tabulation]:
    """The tables that show `runs`: hard labels before soft ones, one for each protocol, each followed by its
    cross-architecture table."""
    return [table for group in _groups(over_seeds(runs)) for table in (_main(group), *_architectures(group))]


def _with_taught(runs: Sequence[Finished]) -> list[Finished]:
    """The runs, each followed by the teacher-labelled real images that were evaluated beside it, which are a row of
    another label regime; each of these once."""
    rows: list[Finished] = []
    for run in runs:
        rows.append(run)
        taught = run.scores.taught
        if taught is None:
            continue
        method = f"random real, labels of {taught.teacher.text}, {size(taught.label_bytes)}"
        stored = taught.label_bytes + taught.image_bytes
        subject = run.subject.replace(labels="teacher", method=method, per_slot=1, stored_bytes=stored)
        network = next(iter(run.scores.architecture))
        scores = run.scores.replace(
            architecture={network: taught.row}, baselines={}, taught=None, subject=subject, majority=None, rates={}
        )
        runs_of_it = taught.row.n if run.runs > 1 else 1
        rows.append(replace(run, scores=scores, subject=subject, published=Published(), runs=runs_of_it))
    return rows


def _groups(runs: Sequence[Finished]) -> list[Group]:
    """The runs, each folder once, by what must be equal for two of them to share a column."""
    by_kind: dict[tuple[str, int, str, str, bool], list[Finished]] = {}
    for run in _with_taught(runs):
        subject, scores = run.subject, run.scores
        kind = subject.labels, subject.per_slot, scores.recipe.model_dump_json(), scores.split, bool(scores.rates)
        by_kind.setdefault(kind, []).append(run)
    groups = [
        Group(*kind[:2], members[0].scores.recipe, *kind[3:], _told_apart(members)) for kind, members in by_kind.items()
    ]
    return sorted(groups, key=lambda group: (group.labels, group.per_slot))


def _told_apart(runs: Sequence[Finished]) -> tuple[Finished, ...]:
    """The runs, by their paths where two share a name."""
    names = [run.name for run in runs]
    return tuple(replace(run, name=str(run.path)) if names.count(run.name) > 1 else run for run in runs)


def _main(group: Group) -> Tabulation:
    reported = group.recipe.reported
    shown = [name for name in BASELINES if any(name in run.baselines for run in group.runs)]
    sources = list(dict.fromkeys(run.published.source for run in group.runs if _published(run, group)))
    rows = [_row(run, group, shown, sources) for run in group.runs]
    columns = [*WHOSE, Column("final", bold=reported == "final"), *_best(group), *_balanced(group), Column("n")]
    if sources:
        columns.append(Column("published"))
    columns += [Column(f"{BASELINES[name]}{_of_another_kind(group)}") for name in shown]
    columns += [Column(MAJORITY_NAME)] * len(_balanced(group))
    return Tabulation(tuple(columns), tuple(rows), _caption(group, shown, bool(sources)), group.title, tuple(sources))


def _of_another_kind(group: Group) -> str:
    """What real images have that the runs of the group have not: labels of their own class, unless a teacher labels all
    rows of the protocol, and a slot for each."""
    labels = ", hard labels" * (group.labels not in ("hard", "teacher"))
    return labels + ", one a slot" * (group.per_slot > 1)


def _row(run: Finished, group: Group, shown: Sequence[str], sources: Sequence[str]) -> tuple[str, ...]:
    cells = [*_whose(run), run.network, spread(run.entry.final)]
    if _best(group):
        cells.append(spread(run.entry.best))
    cells += [spread(run.entry.balanced)] * len(_balanced(group))
    cells.append(run.count)
    if _published(run, group):
        cells.append(f"{run.published.accuracy} [{sources.index(run.published.source) + 1}]")
    elif sources:
        cells.append(ABSENT)
    majority = [_final(run.scores.majority)] * len(_balanced(group))
    return tuple([*cells, *(_final(run.baselines.get(name)) for name in shown), *majority])


def _final(entry: RowScores | None) -> str:
    """What the networks of a row reach, or that there is no such row."""
    if entry is None:
        return ABSENT
    return spread(entry.final)


def _architectures(group: Group) -> list[Tabulation]:
    """The table of the runs that were evaluated on several networks, if there are any."""
    runs = [run for run in group.runs if len(run.scores.architecture) > 1]
    if not runs:
        return []
    names = list(dict.fromkeys(name for run in runs for name in run.scores.architecture))
    entries = [[run.scores.architecture.get(name) for name in names] for run in runs]
    rows = [(*_whose(run), *map(_final, row)) for run, row in zip(runs, entries, strict=True)]
    caption = f"{group.measured}; {networks_text([entry.n for row in entries for entry in row if entry])}."
    columns = (*WHOSE[:-1], *(Column(name) for name in names))
    return [Tabulation(columns, tuple(rows), caption, f"{group.title}, across architectures")]


def _whose(run: Finished) -> list[str]:
    subject = run.subject
    data, stored = f"{subject.data}, {subject.whiten}", ABSENT
    if subject.stored_bytes is not None:
        stored = size(subject.stored_bytes)
    about = [str(subject.ipc), str(subject.per_slot), stored, LABELS[subject.labels], run.scores.recipe.name]
    return [run.name, data, *about, subject.method]


def _best(group: Group) -> list[Column]:
    """A column for the figures that tested images chose, where the protocol has them."""
    if not group.recipe.check_every and not group.recipe.steps:
        return []
    return [Column(best_name(group.recipe, group.split), bold=group.recipe.reported == "best")]


def _balanced(group: Group) -> list[Column]:
    """A column for balanced accuracy, where the classes of one run are unequal."""
    if all(run.entry.balanced is None for run in group.runs):
        return []
    return [Column("balanced")]


def _published(run: Finished, group: Group) -> bool:
    """Whether a published figure stands beside the run: it is one of test images and of the student."""
    return run.published.accuracy is not None and group.split == "test" and run.network == run.subject.model


def _caption(group: Group, shown: Sequence[str], published: bool) -> str:
    recipe, words = group.recipe, [group.measured]
    if _best(group):
        name = {True: best_name(recipe, group.split), False: "best"}[bool(recipe.steps)]
        words.append(f"{name}: {best_text(recipe, group.split).removeprefix('the best ')}")
    if "full" in shown and recipe.epochs_on_full_data:
        words.append(f"full data {recipe.epochs_on_full_data} epochs")
    if _balanced(group):
        words.append("balanced: mean of the final accuracies by class")
    single = [run for run in group.runs if run.runs == 1]
    sizes = [entry.n for run in single for entry in (run.entry, *run.baselines.values())]
    if sizes:
        words.append(networks_text(sizes))
    if len(single) < len(group.runs):
        words.append("n of several runs: mean ± standard deviation of the means of runs that differ in their seed")
    sentence = f"{'; '.join(words)}."
    known = {each.name: each for each in PROTOCOLS.values()}
    for name in dict.fromkeys(run.published.protocol for run in group.runs if published and _published(run, group)):
        own = known.get(name, MTT_PROTOCOL)
        if recipe != own.replace(augmentation=recipe.augmentation, full_epochs=recipe.full_epochs):
            sentence += f" Published figures: protocol {own.name}{_length(own)}."
    return sentence


def _length(recipe: EvalRecipe) -> str:
    """How long a protocol trains, behind its name; nothing where it counts steps, which its column names."""
    if recipe.steps:
        return ""
    return f", {recipe.epochs} epochs"
