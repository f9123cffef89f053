"""The one loop that runs a plan of several whole runs: a sweep, `run --seeds`, an ablation."""

from __future__ import annotations

import itertools
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..autodiff.dispatch import computing
from ..data.dataset import Dataset
from ..data.description import Description
from ..evaluation.rows import TAUGHT
from ..evaluation.scores import Scores, protocol_text, reported_text
from ..report.page.sweep import save_sweep
from ..report.sweep import Sweep, SweepRow
from ..runtime.cluster import used
from ..runtime.devices import settled_device
from ..runtime.errors import DivergedError, FolderGoneError, InputError, LostError, refused
from ..runtime.files import check_folder
from ..runtime.parallel import WorkerPlan, limited, plan_workers, pool
from ..runtime.progress import Bar, bar, tell, write_status
from ..runtime.provenance import machine
from ..runtime.run_dir import SILENT_S, RunDir
from ..runtime.tables import spread
from .config import Experiment, check_experiment, check_numbers, load_data
from .pipeline import obtain_experts, run_experiment, tell_where
from .plan import Row, Settings, Shared, shared_experts, table, title_of
from .presets import preset

Told = Callable[[Experiment, Description], object]


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
    real = {name: each.mean for name, each in scores.baselines.items()}
    if scores.taught is not None:
        real[TAUGHT] = scores.taught.row.mean
    words = protocol_text(recipe, scores.split, bool(scores.rates))
    return row.waiting().replace(
        state="finished",
        labels=labels,
        protocol=f"{words}, reported: {reported_text(recipe, scores.split)}.",
        network=network,
        accuracies=values,
        baselines=real,
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
