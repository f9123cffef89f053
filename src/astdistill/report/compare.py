"""Tables that compare runs with published accuracies and baselines. There is one table for each protocol and kind of
labels; these are never mixed in a column."""

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
from .current_scores import current_evaluation, outdated, outdated_message, sets_of
from .run import RunReader, unique_names
from .sweep import BASELINES, FILE, FORMER_FILES, WRITTEN_LAST, Sweep

RUN_COLUMNS = tuple(
    Column(name, left_aligned=True, no_wrap=name in ("ipc", "stored"))
    for name in ("run", "data", "ipc", "images per slot", "stored", "labels", "protocol", "method", "network")
)
SWEEP_FILES = (FILE, *FORMER_FILES, *WRITTEN_LAST)
"""Files in the folder of a sweep that are not runs."""


class NoScoresError(InputError):
    """A path without scores of a finished run, which a comparison of several paths leaves out."""


@dataclass(frozen=True)
class Finished:
    """Scores of a run with a description of the set, and the published accuracy for the same setting, if any."""

    name: str
    path: Path
    scores: Scores
    subject: SetInfo
    published: Published
    settings: str = ""
    """Digest of the settings that affect the run's result, without its seeds; '' if they are unknown."""
    seed: int = 0
    runs: int = 1
    """Number of runs that each accuracy is a mean over."""

    @property
    def count(self) -> str:
        """The number of networks, or of runs, behind the run's own accuracy."""
        if self.runs > 1:
            return f"{self.runs} runs"
        return str(self.entry.n)

    @property
    def network(self) -> str:
        """The network of the run's own column: its student, or else the first that was evaluated."""
        if self.subject.model in self.scores.architecture:
            return self.subject.model
        return next(iter(self.scores.architecture))

    @property
    def entry(self) -> RowScores:
        """The scores of that network."""
        return self.scores.architecture[self.network]

    @property
    def baselines(self) -> dict[str, RowScores]:
        """Baselines of real images on that network; the evaluation trains them on its first network only."""
        if self.network != next(iter(self.scores.architecture)):
            return {}
        return self.scores.baselines


def read_finished(path: Path) -> Finished:
    """Read the scores in `path`: a run folder, an evaluation folder inside one, or its scores.json.

    Raises InputError for a folder that does not exist or does not belong to a distilled set, and NoScoresError for one
    without scores of its current set.
    """
    evaluation = _evaluation_folder(path)
    folder = evaluation.folder
    run = RunReader.of((evaluation.home() or RunDir(folder.parent)).folder)
    scores = Scores.read(evaluation.scores)
    if not scores.architecture:
        raise NoScoresError(
            f"{folder} has no finished network of the distilled set yet; "
            f"go on with: astdistill evaluate {run.dir.folder}"
        )
    subject = scores.subject or _subject(run, evaluation)
    name = folder.name
    if run.config:
        name = run.dir.folder.name
    settings = ""
    if run.config:
        settings = _settings_digest(run.config, scores)
    return Finished(name, folder, scores, subject, run.published, settings, int(run.config.get("seed", 0)))


def _evaluation_folder(path: Path) -> RunDir:
    """The folder of the scores in `path`; for a run without scores of its current set, that of its latest evaluation.
    Raises InputError like `read_finished`."""
    run_dir = RunDir(path)
    if path.name == RunDir.scores:
        run_dir = RunDir(path.parent)
    folder = run_dir.folder
    if folder.is_file():
        raise NoScoresError(f"{folder} is no folder of a run; name finished runs: astdistill compare runs/*")
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; name finished runs, for example: astdistill compare runs/*")
    if run_dir.synthetic.exists() and (found := current_evaluation(run_dir)) is not None:
        return found
    command = shlex.join(["astdistill", "evaluate", str((run_dir.home() or run_dir).folder)])
    if run_dir.scores.exists():
        if outdated(run_dir, sets_of(run_dir, run_dir.home() or run_dir)):
            raise NoScoresError(outdated_message(folder, command))
        return run_dir
    raise NoScoresError(_missing_scores(run_dir, command))


def _missing_scores(run_dir: RunDir, command: str) -> str:
    """The sentence for a folder without scores. `command` evaluates the set in it."""
    if run_dir.begun:
        return run_dir.not_finished
    around = "runs"
    if any(run_dir.folder.glob(f"*/{RunDir.scores}")):
        around = shlex.quote(str(run_dir.folder))
    remedy = f"name finished runs: astdistill compare {around}/*"
    if run_dir.synthetic.exists():
        remedy = f"evaluate it first: {command}"
    return f"{run_dir.folder} holds no scores.json; {remedy}"


def read_several(paths: Sequence[Path]) -> tuple[list[Finished], list[NoScoresError]]:
    """The scores in each of the paths, and the errors for those without any. Raises the first of these if no path has
    scores."""
    finished, errors = list[Finished](), list[NoScoresError]()
    for path in paths:
        try:
            finished.append(read_finished(path))
        except NoScoresError as error:
            errors.append(error)
    if errors and not finished:
        raise errors[0]
    return finished, errors


def runs_in(path: Path) -> list[Path]:
    """The folders of the finished runs of a sweep, or of `run --seeds` of an earlier version, in the order of their
    seeds; for any other path, the path itself."""
    if path.parent.is_dir() and path.name in SWEEP_FILES:  # runs/NAME-seeds/* matches it in addition to the runs
        return []
    if (sweep := Sweep.read(path)) is not None:
        return [path / row.folder for row in sweep.of("finished")]
    if not (path / SEEDS).exists():
        return [path]
    with reading(path / SEEDS, "what runs over seeds reach", "type their command again, which rewrites it"):
        return [path / f"seed-{int(seed)}" for seed in read_json(path / SEEDS).get("seeds", ())]


def _settings_digest(config: dict[str, Any], scores: Scores) -> str:
    """Digest of the settings that affect a result, without both seeds and the settings in `FREE`."""
    settings = {name: value for name, value in flat(config).items() if not name.startswith((*FREE, "name"))}
    decisive = {name: value for name, value in settings.items() if name not in ("seed", "experts.seed")}
    rows = sorted({*scores.architecture, *scores.baselines})
    return digest([decisive, scores.recipe.to_json(), scores.split, rows])


def over_seeds(runs: Sequence[Finished]) -> list[Finished]:
    """Merge runs that differ only in their seed into one, whose accuracies are the means of the single runs."""
    groups: dict[tuple[str, str, int], list[Finished]] = {}
    for run in {run.path.resolve(): run for run in runs}.values():
        key = run.settings or str(run.path)
        number = 0
        while run.seed in [other.seed for other in groups.get((key, run.subject.data, number), ())]:
            number += 1  # a second run with the same seed starts another group
        groups.setdefault((key, run.subject.data, number), []).append(run)
    return [_merge_runs(members) for members in groups.values()]


def _merge_runs(runs: Sequence[Finished]) -> Finished:
    if len(runs) == 1:
        return runs[0]
    first, tables = runs[0], ("architecture", "baselines")
    rows: dict[str, Any] = {
        table: {
            name: _mean_row([getattr(run.scores, table)[name] for run in runs]) for name in getattr(first.scores, table)
        }
        for table in tables
    }
    taught = [run.scores.taught for run in runs if run.scores.taught is not None]
    if taught:
        rows["taught"] = taught[0].replace(row=_mean_row([each.row for each in taught]))
    name = f"{first.name} and {len(runs) - 1} more"
    if {run.path.parent for run in runs} == {first.path.parent} and all(run.name == f"seed-{run.seed}" for run in runs):
        name = first.path.resolve().parent.name
    return replace(first, name=name, scores=first.scores.replace(**rows), runs=len(runs))


def _mean_row(entries: Sequence[RowScores]) -> RowScores:
    """A row with the means of the runs in place of the accuracies of networks."""

    def means(name: str) -> tuple[float, ...] | None:
        values = [getattr(entry, name) for entry in entries]
        if not all(values):
            return None
        return tuple(map(statistics.fmean, values))

    run_means = tuple(entry.mean for entry in entries)
    return RowScores(
        final=means("final") or run_means,
        best=means("best"),
        balanced=means("balanced"),
        mean=statistics.fmean(run_means),
        std=deviation(run_means),
        n=len(run_means),
        diverged=sum(entry.diverged for entry in entries),
    )


def _subject(run: RunReader, evaluation: RunDir) -> SetInfo:
    """Description of the set that scores of an earlier version belong to, because these do not contain it."""
    if run.synthetic is None:
        raise InputError(
            f"{evaluation.scores} does not name the set that was evaluated; "
            f"evaluate again: astdistill evaluate SET --out {evaluation.folder}"
        )
    return SetInfo.of(run.synthetic)


@dataclass(frozen=True)
class Group:
    """Runs whose accuracies may share a column."""

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
            name += f", {self.per_slot} images per slot"
        return name

    @property
    def measured(self) -> str:
        """How all accuracies of the group were measured."""
        return f"{protocol_text(self.recipe, self.split, self.searched)}, last epoch"


def compared(runs: Sequence[Finished]) -> list[Tabulation]:
    """The tables that show `runs`: hard labels before soft ones, one for each protocol, each followed by its
    cross-architecture table."""
    return [
        table for group in _groups(over_seeds(runs)) for table in (_main_table(group), *_architecture_tables(group))
    ]


def _with_taught(runs: Sequence[Finished]) -> list[Finished]:
    """The runs, each followed by the teacher-labelled real images that were evaluated with it, which are a row with
    another kind of labels."""
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
        run_count = taught.row.n if run.runs > 1 else 1
        rows.append(replace(run, scores=scores, subject=subject, published=Published(), runs=run_count))
    return rows


def _groups(runs: Sequence[Finished]) -> list[Group]:
    """Group the runs by what must be equal for two of them to share a column."""
    by_kind: dict[tuple[str, int, str, str, bool], list[Finished]] = {}
    for run in _with_taught(runs):
        subject, scores = run.subject, run.scores
        kind = subject.labels, subject.per_slot, scores.recipe.model_dump_json(), scores.split, bool(scores.rates)
        by_kind.setdefault(kind, []).append(run)
    groups = [
        Group(*kind[:2], members[0].scores.recipe, *kind[3:], _with_unique_names(members))
        for kind, members in by_kind.items()
    ]
    return sorted(groups, key=lambda group: (group.labels, group.per_slot))


def _with_unique_names(runs: Sequence[Finished]) -> tuple[Finished, ...]:
    names = unique_names([(run.name, run.path) for run in runs])
    return tuple(replace(run, name=name) for run, name in zip(runs, names, strict=True))


def _main_table(group: Group) -> Tabulation:
    reported = group.recipe.reported
    baselines = [name for name in BASELINES if any(name in run.baselines for run in group.runs)]
    sources = list(dict.fromkeys(run.published.source for run in group.runs if _has_published(run, group)))
    rows = [_row(run, group, baselines, sources) for run in group.runs]
    columns = [
        *RUN_COLUMNS,
        Column("final", bold=reported == "final"),
        *_best_columns(group),
        *_balanced_columns(group),
        Column("n"),
    ]
    if sources:
        columns.append(Column("published"))
    columns += [Column(f"{BASELINES[name]}{_baseline_suffix(group)}") for name in baselines]
    columns += [Column(MAJORITY_NAME)] * len(_balanced_columns(group))
    return Tabulation(
        tuple(columns), tuple(rows), _caption(group, baselines, bool(sources)), group.title, tuple(sources)
    )


def _baseline_suffix(group: Group) -> str:
    """Suffix for baseline columns that differ from the runs of the group: in their hard labels, unless a teacher labels
    all rows of the protocol, and in having one image per slot."""
    labels = ", hard labels" * (group.labels not in ("hard", "teacher"))
    return labels + ", one a slot" * (group.per_slot > 1)


def _row(run: Finished, group: Group, baselines: Sequence[str], sources: Sequence[str]) -> tuple[str, ...]:
    cells = [*_run_cells(run), run.network, spread(run.entry.final)]
    if _best_columns(group):
        cells.append(spread(run.entry.best))
    cells += [spread(run.entry.balanced)] * len(_balanced_columns(group))
    cells.append(run.count)
    if _has_published(run, group):
        cells.append(f"{run.published.accuracy} [{sources.index(run.published.source) + 1}]")
    elif sources:
        cells.append(ABSENT)
    majority = [_final(run.scores.majority)] * len(_balanced_columns(group))
    return tuple([*cells, *(_final(run.baselines.get(name)) for name in baselines), *majority])


def _final(entry: RowScores | None) -> str:
    """The final accuracies of a row as text; `ABSENT` if there is no row."""
    if entry is None:
        return ABSENT
    return spread(entry.final)


def _architecture_tables(group: Group) -> list[Tabulation]:
    """The table of the runs that were evaluated on several networks; an empty list if there are none."""
    runs = [run for run in group.runs if len(run.scores.architecture) > 1]
    if not runs:
        return []
    names = list(dict.fromkeys(name for run in runs for name in run.scores.architecture))
    entries = [[run.scores.architecture.get(name) for name in names] for run in runs]
    rows = [(*_run_cells(run), *map(_final, row)) for run, row in zip(runs, entries, strict=True)]
    caption = f"{group.measured}; {networks_text([entry.n for row in entries for entry in row if entry])}."
    columns = (*RUN_COLUMNS[:-1], *(Column(name) for name in names))
    return [Tabulation(columns, tuple(rows), caption, f"{group.title}, across architectures")]


def _run_cells(run: Finished) -> list[str]:
    subject = run.subject
    data, stored = f"{subject.data}, {subject.whiten}", ABSENT
    if subject.stored_bytes is not None:
        stored = size(subject.stored_bytes)
    about = [str(subject.ipc), str(subject.per_slot), stored, LABELS[subject.labels], run.scores.recipe.name]
    return [run.name, data, *about, subject.method]


def _best_columns(group: Group) -> list[Column]:
    """A column for the best accuracies, which tested images chose, if the protocol reports them."""
    if not group.recipe.check_every and not group.recipe.steps:
        return []
    return [Column(best_name(group.recipe, group.split), bold=group.recipe.reported == "best")]


def _balanced_columns(group: Group) -> list[Column]:
    """A column for balanced accuracy, if a run has classes of unequal size."""
    if all(run.entry.balanced is None for run in group.runs):
        return []
    return [Column("balanced")]


def _has_published(run: Finished, group: Group) -> bool:
    """Whether a published accuracy is shown with the run: it is one of test images and of the student."""
    return run.published.accuracy is not None and group.split == "test" and run.network == run.subject.model


def _caption(group: Group, baselines: Sequence[str], published: bool) -> str:
    recipe, notes = group.recipe, [group.measured]
    if _best_columns(group):
        name = {True: best_name(recipe, group.split), False: "best"}[bool(recipe.steps)]
        notes.append(f"{name}: {best_text(recipe, group.split).removeprefix('the best ')}")
    if "full" in baselines and recipe.epochs_on_full_data:
        notes.append(f"full data {recipe.epochs_on_full_data} epochs")
    if _balanced_columns(group):
        notes.append("balanced: mean of the final accuracies by class")
    single = [run for run in group.runs if run.runs == 1]
    sizes = [entry.n for run in single for entry in (run.entry, *run.baselines.values())]
    if sizes:
        notes.append(networks_text(sizes))
    if len(single) < len(group.runs):
        notes.append("n of several runs: mean ± standard deviation of the means of runs that differ in their seed")
    sentence = f"{'; '.join(notes)}."
    protocols = {each.name: each for each in PROTOCOLS.values()}
    for name in dict.fromkeys(run.published.protocol for run in group.runs if published and _has_published(run, group)):
        protocol = protocols.get(name, MTT_PROTOCOL)
        if recipe != protocol.replace(augmentation=recipe.augmentation, full_epochs=recipe.full_epochs):
            sentence += f" Published figures: protocol {protocol.name}{_length(protocol)}."
    return sentence


def _length(recipe: EvalRecipe) -> str:
    """The number of epochs of a protocol, as a suffix of its name; '' if it counts steps, which its column states."""
    if recipe.steps:
        return ""
    return f", {recipe.epochs} epochs"
