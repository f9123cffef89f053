"""Whole runs by the table: preset × method × settings × seed. The plan, and the one loop that runs it; `run --seeds`
and the ablation are sweeps with rows of their own."""

from __future__ import annotations

import itertools
import math
import re
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..autodiff.dispatch import computing
from ..data.dataset import Dataset
from ..data.description import Description
from ..evaluation.scores import Scores, protocol_text, reported_text
from ..methods.method import PARTS
from ..report.page.sweep import save_sweep
from ..report.sweep import Sweep, SweepRow
from ..runtime.cluster import used
from ..runtime.config import Record, renamed_fields
from ..runtime.devices import settled_device
from ..runtime.errors import DivergedError, FolderGoneError, InputError, LostError, refused, unknown
from ..runtime.files import check_folder
from ..runtime.parallel import WorkerPlan, limited, plan_workers, pool
from ..runtime.progress import Bar, bar, tell, write_status
from ..runtime.provenance import machine
from ..runtime.run_dir import SILENT_S, RunDir, flat
from ..runtime.tables import spread
from .config import MOVED, Experiment, ExpertSettings, check_experiment, check_numbers, expert_epochs, load_data
from .pipeline import obtain_experts, run_experiment, tell_where
from .presets import preset, with_method

NONE = "none of the six"
Settings = Mapping[str, Sequence[Any]]
"""Dotted names of settings with the values that each takes."""
Told = Callable[[Experiment, Description], object]


@dataclass(frozen=True)
class Row:
    """One whole run of the plan: its folder in that of the sweep, its line in the table, and all that decides it."""

    folder: str
    preset: str
    method: str
    settings: str
    experiment: Experiment

    def waiting(self) -> SweepRow:
        """The row, not run yet."""
        return SweepRow(
            folder=self.folder,
            preset=self.preset,
            method=self.method,
            settings=self.settings,
            seed=self.experiment.seed,
            decisive=decisive(self.experiment),
        )


def decisive(experiment: Experiment) -> str:
    """A digest of what decides the result, which neither the machine nor the place of the experts does."""
    experts = experiment.experts.replace(store=ExpertSettings().store)
    return experiment.replace(device="auto", workers=None, engine="auto", experts=experts).digest()


def seeded(experiment: Experiment, number: int) -> Experiment:
    """The experiment with the `number`-th whole-run seed: its own experts, draws and evaluated networks."""
    experts = experiment.experts.replace(seed=experiment.experts.seed + number)
    return experiment.replace(seed=experiment.seed + number, experts=experts)


def without_baselines(experiment: Experiment) -> Experiment:
    """The same without rows of real images, which another run has."""
    return experiment.replace(evaluation=experiment.evaluation.replace(baselines=()))


def over_seeds(experiment: Experiment, seeds: int) -> tuple[Row, ...]:
    """The rows of `run --seeds`."""
    runs = [seeded(experiment, number) for number in range(seeds)]
    return tuple(Row(f"seed-{each.seed}", each.name, each.method.name, "", each) for each in runs)


def variants(experiment: Experiment) -> dict[str, Experiment]:
    """The experiment whole, without each part that its method has, and without all of them. Raises InputError if it has
    none."""
    method = experiment.method
    on = {part: without for part in PARTS if (without := method.without(part)) != method}
    if not on:
        raise InputError(
            f"'{method.name}' has none of AST's six parts ({', '.join(PARTS)}); name a --base whose method is ast."
        )
    none = method
    for part in on:
        none = none.without(part)
    methods = {method.name: method} | {f"without {part}": without for part, without in on.items()}
    if len(on) > 1:
        methods[NONE] = none
    return {name: experiment.replace(method=each) for name, each in methods.items()}


def ablation(experiment: Experiment, seeds: int) -> tuple[Row, ...]:
    """The rows of `run ablation`: every variant with every seed, without baselines, seed after seed, so that one which
    is stopped has whole rounds."""
    return tuple(
        Row(
            f"{name.replace(' ', '-')}-seed{experiment.seed + number}",
            experiment.name,
            name,
            "",
            without_baselines(seeded(variant, number)),
        )
        for number in range(seeds)
        for name, variant in variants(experiment).items()
    )


def table(
    bases: Sequence[Experiment], methods: Sequence[str] = (), seeds: int = 3, settings: Settings | None = None
) -> tuple[Row, ...]:
    """The rows of a sweep: each experiment by each method (its own, where none is named), with each combination of
    settings and each seed, seed after seed.

    Real images are evaluated with the first method alone, as they do not depend on it. Raises InputError for unknown
    methods and settings, and for values that cannot be.
    """
    if seeds < 1:
        raise InputError(f"{seeds} seeds were asked for; choose 1 or more, and 3 for a spread.")
    rows = list[Row]()
    for number, base in itertools.product(range(seeds), bases):
        names = list(dict.fromkeys(methods)) or [base.method.name]
        for name, (words, changes) in itertools.product(names, list(_combinations(settings or {}))):
            each = seeded(with_settings(with_method(base, name), changes), number)
            if name != names[0]:
                each = without_baselines(each)
            folder = "-".join(filter(None, [base.name, name, words.replace(", ", "-"), f"seed{each.seed}"]))
            rows.append(Row(re.sub(r"[^\w.+=-]+", "_", folder), base.name, name, words, each))
    _check_distinct(rows)
    return tuple(rows)


def _check_distinct(rows: Sequence[Row]) -> None:
    folders = [row.folder for row in rows]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice is not None:
        raise InputError(f"Two rows of the sweep would be {twice}; name each preset and each value once.")


def _combinations(settings: Settings) -> Iterator[tuple[str, dict[str, Any]]]:
    """What varies in words, and one value of each setting."""
    for name, values in settings.items():
        if not values:
            raise InputError(f"The setting {name} was given no value; write {name}=VALUE, or {name}=ONE,ANOTHER.")
    for values in itertools.product(*settings.values()):
        chosen = dict(zip(settings, values, strict=True))
        words = [f"{name.rpartition('.')[2]}={value}" for name, value in chosen.items() if len(settings[name]) > 1]
        yield ", ".join(words), chosen


def with_settings(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """The experiment with settings by their dotted names, also those of earlier versions. Raises InputError for names
    that it has not, and for values that cannot be."""
    for name, value in changes.items():
        path = MOVED.get(name.replace("-", "_"), name.replace("-", "_"))
        try:
            experiment = _with_setting(experiment, path.split("."), value, path, experiment)
        except ValidationError as error:
            raise refused(error, path.rpartition(".")[0]) from error
    return experiment


def _with_setting(record: Any, path: Sequence[str], value: Any, name: str, whole: Experiment) -> Any:
    own = renamed_fields(type(record)).get(path[0], path[0])
    inner = getattr(record, own, None)
    known = own in type(record).model_fields and isinstance(inner, Record) == (len(path) > 1)
    if not known:
        raise unknown("setting", name, flat(whole.to_json()), "astdistill run PRESET --help-all")
    if len(path) > 1:
        value = _with_setting(inner, path[1:], value, name, whole)
    elif isinstance(inner, tuple) and isinstance(value, str):
        value = tuple(filter(None, value.split("+")))
    return record.replace(**{own: value})


@dataclass(frozen=True)
class Shared:
    """Experts that several rows follow, as the one experiment that trains all of them; or rows without experts."""

    experiment: Experiment
    rows: tuple[Row, ...]

    @property
    def trained(self) -> bool:
        """Whether there are any that are not imported."""
        return self.experiment.method.expert is not None and self.experiment.experts.imported is None


def shared_experts(rows: Sequence[Row]) -> list[Shared]:
    """The rows by the experts that they follow: enough experts, of enough epochs, for all of them."""
    groups: dict[object, list[Row]] = {}
    for row in rows:
        groups.setdefault(_experts_of(row.experiment), []).append(row)
    return [Shared(_widest([row.experiment for row in members]), tuple(members)) for members in groups.values()]


def _experts_of(experiment: Experiment) -> object:
    """What tells the store of one experiment from that of another."""
    wanted, recipe = experiment.experts, ""
    if experiment.method.expert is not None:
        recipe = experiment.method.recipe.digest()
    place = str(wanted.store), wanted.imported, wanted.seed, wanted.dtype
    return experiment.data.digest(), experiment.model, recipe, place


def _widest(experiments: Sequence[Experiment]) -> Experiment:
    first = experiments[0]
    if first.method.expert is None or first.experts.imported is not None:
        return first
    count = max(each.experts.count for each in experiments)
    epochs = max(map(expert_epochs, experiments))
    return first.replace(experts=first.experts.replace(count=count, stop_after=epochs))


def run_rows(
    title: str, rows: Sequence[Row], out: Path, loggers: Sequence[str] = (), told: Told = lambda each, read: None
) -> Sweep:
    """Run every row that is not finished: the experts first, those that several rows follow once, then the rows, each
    a task in a process of its own, where that pays, or on the nodes of a cluster.

    A row that fails is noted with its sentence, and the others go on. `out`/sweep.json is rewritten after each row;
    the tables and the page at the end. The same call goes on where it was stopped. `told` is called with what was read
    of each data set. Raises InputError where `out` cannot be the folder of a sweep, and where every row refuses its
    settings.
    """
    check_folder(out, "--out")
    if RunDir(out).config.exists():
        raise InputError(f"{out} holds a run; name another folder for several runs, such as --out {out}-seeds")
    with RunDir(out).writing(), write_status(RunDir(out).live):
        running = _Running(title, rows, out, tuple(loggers), told)
        running.prepare()
        running.run()
    save_sweep(running.sweep, out)
    failed = running.sweep.of("failed")
    if failed and not running.sweep.of("finished") and all(row.error == InputError.__name__ for row in failed):
        raise InputError(failed[0].sentence)
    return running.sweep


class _Running:
    """The rows of a sweep, and how each stands."""

    def __init__(self, title: str, rows: Sequence[Row], out: Path, loggers: tuple[str, ...], told: Told) -> None:
        self.rows, self.out, self.loggers, self.told = rows, out, loggers, told
        known = {}
        if (before := Sweep.read(out)) is not None:
            known = {row.folder: row for row in before.rows}
            _tell_changes(known, rows)
        waiting = [row.waiting() for row in rows]
        kept = [known[row.folder] if self._is_done(known.get(row.folder), row) else row for row in waiting]
        self.sweep = Sweep(title=title, rows=tuple(kept))
        self.sweep.save(out)

    def _is_done(self, before: SweepRow | None, now: SweepRow) -> bool:
        if before is None or before.state != "finished" or before.decisive != now.decisive:
            return False
        return RunDir(self.out / now.folder).scores.exists()

    @property
    def missing(self) -> list[Row]:
        """The rows that are still to be run."""
        waiting = {row.folder for row in self.sweep.of("waiting")}
        return [row for row in self.rows if row.folder in waiting]

    def note(self, row: SweepRow) -> None:
        """Keep what a row has reached, or why it has failed."""
        self.sweep = self.sweep.replaced(row)
        self.sweep.save(self.out)
        words = f"{spread(row.accuracies)} %"
        if row.state == "failed":
            words = f"failed: {row.sentence}"
        tell(f"{row.folder}: {words}")

    def fail(self, rows: Sequence[Row], error: Exception) -> None:
        for row in rows:
            self.note(failed(row, error, self.out))

    def prepare(self) -> None:
        """Read each data set, see what fits it, and train the experts."""
        for row in self.missing:
            try:
                check_numbers(row.experiment)
            except InputError as error:
                self.fail([row], error)
        for _, rows in itertools.groupby(
            sorted(self.missing, key=lambda row: row.experiment.data.digest()), lambda row: row.experiment.data
        ):
            self._prepare(list(rows))

    def _prepare(self, rows: Sequence[Row]) -> None:
        """The same for rows of one data set, which is forgotten then."""
        try:
            dataset = load_data(rows[0].experiment)
        except InputError as error:
            self.fail(rows, error)
            return
        first = rows[0].experiment
        description = Description.of(dataset, first.ipc)
        tell_where(first, description)
        self.told(first, description)
        fitting = list[Row]()
        for row in rows:
            try:
                check_experiment(row.experiment, dataset)
                fitting.append(row)
            except InputError as error:
                self.fail([row], error)
        for group in shared_experts(fitting):
            self._train(group, dataset)

    def _train(self, group: Shared, dataset: Dataset) -> None:
        if not group.trained:
            return
        try:
            obtain_experts(group.experiment, dataset)
        except (InputError, DivergedError) as error:
            self.fail(group.rows, error)

    def run(self) -> None:
        """The rows that are left."""
        left = {row.folder: row for row in self.missing}
        for row in left.values():
            RunDir(self.out / row.folder).check_free()
        plan, shared = self._plan(), (self.out, self.loggers)
        gpu = any(settled_device(row.experiment.device) != "cpu" for row in self.rows)
        with bar("rows", len(self.rows), len(self.rows) - len(left), unit="rows") as progress:
            while left:
                jobs = [self._job(row, plan) for row in left.values()]
                try:
                    with pool(run_row, shared, plan, Bar("", 0, 0, None), len(jobs), math.inf, gpu) as run:
                        if (there := used()) is not None:
                            there.check_shared(self.out)
                        for job, row in run(jobs):
                            del left[job.folder]
                            self.note(row)
                            progress.step()
                except LostError as lost:
                    if lost.job is None:
                        raise
                    self.fail([left.pop(lost.job.folder)], lost)
                    progress.step()

    def _plan(self) -> WorkerPlan:
        """By the whole plan, whatever of it is left, so that no bit depends on where it was stopped."""
        networks = {row.experiment.model for row in self.rows}
        first = self.rows[0].experiment
        return plan_workers(len(self.rows), first.workers, _slowest(self.rows), sorted(networks))

    @staticmethod
    def _job(row: Row, plan: WorkerPlan) -> Row:
        """The row as it is run: in one of several processes, its networks one after another."""
        if plan.workers == 1:
            return row
        return replace(row, experiment=row.experiment.replace(workers=1))


def _slowest(rows: Sequence[Row]) -> Any:
    """The device of all rows, or one that is none of the CPU's, which one process feeds."""
    import torch

    names = [settled_device(row.experiment.device) for row in rows]
    return torch.device(next((name for name in names if name != "cpu"), "cpu"))


def _tell_changes(known: Mapping[str, SweepRow], rows: Sequence[Row]) -> None:
    """Say what a sweep that goes on adds to its plan, and what it leaves out."""
    now = [row.folder for row in rows]
    added, left = [name for name in now if name not in known], [name for name in known if name not in now]
    for words, names in (("adds", added), ("leaves out, whose folders stay,", left)):
        if names:
            count = f"{len(names)} row" + "s" * (len(names) > 1)
            tell(f"The plan {words} {count}: {', '.join(names[:8])}{', …' * (len(names) > 8)}.")


def run_row(shared: tuple[Path, tuple[str, ...]], row: Row, progress: Bar) -> SweepRow:
    """One whole run, as a job of a pool; an error is noted, and not raised."""
    out, loggers = shared
    folder = RunDir(out / row.folder)
    tell(f"{folder.folder}:")
    try:
        _wait_for(folder)
        begun = folder.threads(machine()["processor"]) or (None, None)
        with limited(*begun):
            return finished(row, run_experiment(row.experiment, folder.folder, loggers))
    except Exception as error:
        return failed(row, error, out)


def _wait_for(folder: RunDir) -> None:
    """Wait for a node that was lost while it wrote to the folder: it counts as gone once it has been silent. Raises
    InputError where somebody writes on."""
    end = time.monotonic() + 1.5 * SILENT_S
    while True:
        try:
            folder.check_free()
            return
        except InputError:
            if time.monotonic() > end:
                raise
        time.sleep(1.0)


def finished(row: Row, scores: Scores) -> SweepRow:
    """The row with what its networks reach."""
    network, entry = next(iter(scores.architecture.items()))
    values, recipe = entry.final, scores.recipe
    if recipe.reported == "best" and entry.best:
        values = entry.best
    labels = ""
    if scores.subject is not None:
        labels = scores.subject.labels
    words = protocol_text(recipe, scores.split, bool(scores.rates))
    return row.waiting().replace(
        state="finished",
        labels=labels,
        protocol=f"{words}, reported: {reported_text(recipe, scores.split)}.",
        network=network,
        accuracies=values,
        baselines={name: real.mean for name, real in scores.baselines.items()},
    )


def failed(row: Row, error: Exception, out: Path) -> SweepRow:
    """The row with a sentence; the traceback of an error that no user can mend goes to a file beside its folder."""
    sentence = str(error)
    if isinstance(error, ValidationError):
        error = refused(error)
        sentence = str(error)
    if not isinstance(error, InputError | DivergedError | FolderGoneError):
        path = out / f"{row.folder}.error.txt"
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        sentence = f"{type(error).__name__}: {' '.join(sentence.split())[:300]} (all of it: {path})"
    return row.waiting().replace(state="failed", sentence=sentence, error=type(error).__name__)


def sweep(
    presets: Sequence[str | Experiment],
    *,
    out: str | Path,
    methods: Sequence[str] = (),
    seeds: int = 3,
    settings: Settings | None = None,
    threads: int | None = None,
    cluster: str | None = None,
    allow_mixed: bool = False,
) -> Sweep:
    """Run a table of whole runs: every preset by every method, with every combination of settings and every seed.

    Everything lies in `out`: a run folder for each row, sweep.json, the table as text, Markdown and LaTeX, and
    report.html. The same call goes on where it was stopped.

    Args:
        presets: Names of presets.
        out: The folder.
        methods: Names of methods; none means each preset's own.
        seeds: Whole runs of each, experts included.
        settings: Values to try by the dotted names of settings, such as `{"distill.lr_img": [100, 1000]}`.
        threads: Threads of the CPU that the rows share; on a cluster those of one row.
        cluster: Run the rows on the nodes of this Ray cluster: "auto", or HOST:PORT of its head node.
        allow_mixed: Also use nodes with another engine, instruction set or versions.

    Returns:
        The rows, finished and failed; `Sweep.of("failed")` gives those that failed.

    Raises:
        InputError: For unknown names, values that cannot be, and where no row can be run.
    """
    bases = [each if isinstance(each, Experiment) else preset(each) for each in presets]
    rows = table(bases, methods, seeds, settings)
    with computing("auto", threads, cluster, allow_mixed):
        return run_rows(title_of(rows), rows, Path(out))


def title_of(rows: Sequence[Row]) -> str:
    """How much a sweep is of."""
    counts = {
        "preset": {row.preset for row in rows},
        "method": {row.method for row in rows},
        "setting": {row.settings for row in rows},
        "seed": {row.experiment.seed for row in rows},
    }
    words = [f"{len(values)} {kind}{'s' * (len(values) > 1)}" for kind, values in counts.items() if len(values) > 1]
    if len(counts["preset"]) == 1:
        words = [" × ".join(words) or "1 run", f"on {rows[0].preset}"]
        return " ".join(words)
    return " × ".join(words)
