"""Runs a plan of several whole runs: a sweep, `run --seeds` or an ablation."""

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
from ..report.sweep import FILE, FORMER_FILES, WRITTEN_LAST, Sweep, SweepRow
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
from .pipeline import obtain_experts, print_device, run_experiment
from .plan import Row, Settings, Shared, shared_experts, table, title_of
from .presets import preset

OnDescription = Callable[[Experiment, Description], object]


def run_rows(
    title: str,
    rows: Sequence[Row],
    out: Path,
    loggers: Sequence[str] = (),
    on_description: OnDescription = lambda experiment, description: None,
) -> Sweep:
    """Run every row that is not finished. Experts are trained first, shared ones once; then the rows run, each as a
    task in a separate process if that saves time, or on the nodes of a cluster.

    A row that fails is saved with its error message, and the other rows continue. `out`/sweep.json is rewritten after
    each row; the tables and the page are written at the end. The same call resumes a stopped sweep.
    `on_description` is called with the description of each data set. Raises InputError if `out` cannot be the
    folder of a sweep, and if no row finishes and all failures are InputErrors.
    """
    check_out(out)
    with RunDir(out).writing(), write_status(RunDir(out).live):
        running = _Running(title, rows, out, tuple(loggers), on_description)
        running.prepare()
        running.run()
    save_sweep(running.sweep, out)
    failed = running.sweep.of("failed")
    if failed and not running.sweep.of("finished") and all(row.error == InputError.__name__ for row in failed):
        raise InputError(failed[0].sentence)
    return running.sweep


def check_out(out: Path) -> None:
    """Raise InputError, with nothing written, if `out` holds a run, or files of others that a sweep would replace."""
    check_folder(out, "--out")
    if RunDir(out).config.exists():
        raise InputError(f"{out} holds a run; name another folder for several runs, such as --out {out}-seeds")
    foreign = [name for name in WRITTEN_LAST if (out / name).exists()]
    if foreign and not any((out / name).exists() for name in (FILE, *FORMER_FILES)):
        raise InputError(
            f"{out} holds a file {foreign[0]}, which no sweep wrote and this one would replace; name a new folder with "
            "--out."
        )


class _Running:
    """The rows of a sweep and their states."""

    def __init__(
        self, title: str, rows: Sequence[Row], out: Path, loggers: tuple[str, ...], on_description: OnDescription
    ) -> None:
        self.rows, self.out, self.loggers, self.on_description = rows, out, loggers, on_description
        saved = {}
        if (previous := Sweep.read(out)) is not None:
            saved = {row.folder: row for row in previous.rows}
            _print_changes(saved, rows)
        waiting = [row.waiting() for row in rows]
        merged = [saved[row.folder] if self._is_done(saved.get(row.folder), row) else row for row in waiting]
        self.sweep = Sweep(title=title, rows=tuple(merged))
        self.sweep.save(out)

    def _is_done(self, previous: SweepRow | None, planned: SweepRow) -> bool:
        if previous is None or previous.state != "finished" or previous.decisive != planned.decisive:
            return False
        return RunDir(self.out / planned.folder).scores.exists()

    @property
    def missing(self) -> list[Row]:
        """The rows that have not been run yet."""
        waiting = {row.folder for row in self.sweep.of("waiting")}
        return [row for row in self.rows if row.folder in waiting]

    def note(self, row: SweepRow) -> None:
        """Save and print the result of a row, or the reason for its failure."""
        self.sweep = self.sweep.replaced(row)
        self.sweep.save(self.out)
        result = f"{spread(row.accuracies)} %"
        if row.state == "failed":
            result = f"failed: {row.sentence}"
        tell(f"{row.folder}: {result}")

    def fail(self, rows: Sequence[Row], error: Exception) -> None:
        for row in rows:
            self.note(failed(row, error, self.out))

    def prepare(self) -> None:
        """Load each data set, check the rows that use it, and train the experts."""
        for row in self.missing:
            try:
                check_numbers(row.experiment)
            except InputError as error:
                self.fail([row], error)
        for _, rows in itertools.groupby(
            sorted(self.missing, key=lambda row: row.experiment.data.digest()), lambda row: row.experiment.data
        ):
            self._prepare_dataset(list(rows))

    def _prepare_dataset(self, rows: Sequence[Row]) -> None:
        """Prepare the rows of one data set, which is released afterwards."""
        try:
            dataset = load_data(rows[0].experiment)
        except InputError as error:
            self.fail(rows, error)
            return
        first = rows[0].experiment
        description = Description.of(dataset, first.ipc)
        print_device(first, description)
        self.on_description(first, description)
        valid_rows = list[Row]()
        for row in rows:
            try:
                check_experiment(row.experiment, dataset)
                valid_rows.append(row)
            except InputError as error:
                self.fail([row], error)
        for group in shared_experts(valid_rows):
            self._train_experts(group, dataset)

    def _train_experts(self, group: Shared, dataset: Dataset) -> None:
        if not group.trained:
            return
        try:
            obtain_experts(group.experiment, dataset)
        except (InputError, DivergedError) as error:
            self.fail(group.rows, error)

    def run(self) -> None:
        """Run the missing rows."""
        remaining = {row.folder: row for row in self.missing}
        for row in remaining.values():
            RunDir(self.out / row.folder).check_free()
        plan, shared = self._plan(), (self.out, self.loggers)
        gpu = any(settled_device(row.experiment.device) != "cpu" for row in self.rows)
        with bar("rows", len(self.rows), len(self.rows) - len(remaining), unit="rows") as progress:
            while remaining:
                jobs = [self._job(row, plan) for row in remaining.values()]
                try:
                    with pool(run_row, shared, plan, Bar("", 0, 0, None), len(jobs), math.inf, gpu) as run:
                        if (cluster := used()) is not None:
                            cluster.check_shared(self.out)
                        for job, row in run(jobs):
                            del remaining[job.folder]
                            self.note(row)
                            progress.step()
                except LostError as lost:
                    if lost.job is None:
                        raise
                    self.fail([remaining.pop(lost.job.folder)], lost)
                    progress.step()

    def _plan(self) -> WorkerPlan:
        """The worker plan for all rows, including finished ones, so that results do not depend on where a sweep was
        stopped."""
        networks = {row.experiment.model for row in self.rows}
        first = self.rows[0].experiment
        return plan_workers(len(self.rows), first.workers, _common_device(self.rows), sorted(networks))

    @staticmethod
    def _job(row: Row, plan: WorkerPlan) -> Row:
        """The row as it is run. In one of several processes, its networks are trained one after another."""
        if plan.workers == 1:
            return row
        return replace(row, experiment=row.experiment.replace(workers=1))


def _common_device(rows: Sequence[Row]) -> Any:
    """The first device of the rows that is not the CPU, because one process feeds it; otherwise the CPU."""
    import torch

    names = [settled_device(row.experiment.device) for row in rows]
    return torch.device(next((name for name in names if name != "cpu"), "cpu"))


def _print_changes(known_rows: Mapping[str, SweepRow], rows: Sequence[Row]) -> None:
    """Print which rows a resumed sweep adds to its plan, and which ones it leaves out."""
    current = [row.folder for row in rows]
    added, removed = (
        [name for name in current if name not in known_rows],
        [name for name in known_rows if name not in current],
    )
    for verb, names, note in (("adds", added, ""), ("drops", removed, ", whose folders stay")):
        if names:
            count = f"{len(names)} row" + "s" * (len(names) > 1)
            tell(f"The plan {verb} {count}{note}: {', '.join(names[:8])}{', …' * (len(names) > 8)}.")


def run_row(shared: tuple[Path, tuple[str, ...]], row: Row, progress: Bar) -> SweepRow:
    """Run one row, as a job of a pool. An error is returned as a failed row, not raised."""
    out, loggers = shared
    folder = RunDir(out / row.folder)
    tell(f"{folder.folder}:")
    try:
        _wait_until_free(folder)
        thread_limits = folder.threads(machine()["processor"]) or (None, None)
        with limited(*thread_limits):
            result = finished(row, run_experiment(row.experiment, folder.folder, loggers))
        _error_file(row, out).unlink(missing_ok=True)
        return result
    except Exception as error:
        return failed(row, error, out)


def _wait_until_free(folder: RunDir) -> None:
    """Wait until no process writes to the folder. A node that was lost while writing counts as gone once it has been
    silent for `SILENT_S` seconds. Raises InputError if a process keeps writing."""
    deadline = time.monotonic() + 1.5 * SILENT_S
    while True:
        try:
            folder.check_free()
            return
        except InputError:
            if time.monotonic() > deadline:
                raise
        time.sleep(1.0)


def finished(row: Row, scores: Scores) -> SweepRow:
    """The row with the accuracies of its networks."""
    network, entry = next(iter(scores.architecture.items()))
    values, recipe = entry.final, scores.recipe
    if recipe.reported == "best" and entry.best:
        values = entry.best
    labels = ""
    if scores.subject is not None:
        labels = scores.subject.labels
    baselines = {name: each.mean for name, each in scores.baselines.items()}
    if scores.taught is not None:
        baselines[TAUGHT] = scores.taught.row.mean
    protocol = protocol_text(recipe, scores.split, bool(scores.rates))
    return row.waiting().replace(
        state="finished",
        labels=labels,
        protocol=f"{protocol}, reported: {reported_text(recipe, scores.split)}.",
        network=network,
        accuracies=values,
        baselines=baselines,
    )


def _error_file(row: Row, out: Path) -> Path:
    """The file with the traceback of a row that failed."""
    return out / f"{row.folder}.error.txt"


def failed(row: Row, error: Exception, out: Path) -> SweepRow:
    """The row with its error message. The traceback of an error that a user cannot fix is written to a file in
    `out`."""
    sentence = str(error)
    if isinstance(error, ValidationError):
        error = refused(error)
        sentence = str(error)
    if not isinstance(error, InputError | DivergedError | FolderGoneError):
        path = _error_file(row, out)
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

    `out` gets a run folder for each row, sweep.json, the table as text, Markdown and LaTeX, and report.html. The same
    call resumes a stopped sweep.

    Args:
        presets: Names of presets, or records of experiments.
        out: The folder.
        methods: Names of methods. Empty: each preset's own.
        seeds: Number of whole runs of each, with separate experts.
        settings: Values to try, by the dotted names of settings, such as `{"distill.lr_img": [100, 1000]}`.
        threads: CPU threads that the rows share; on a cluster, those of one row.
        cluster: Run the rows on the nodes of this Ray cluster: "auto", or HOST:PORT of its head node.
        allow_mixed: Also use nodes with another engine, instruction set or versions.

    Returns:
        The rows, finished and failed; `Sweep.of("failed")` gives those that failed.

    Raises:
        InputError: For unknown names, invalid values, and if no row can be run.
    """
    bases = [each if isinstance(each, Experiment) else preset(each) for each in presets]
    rows = table(bases, methods, seeds, settings)
    with computing("auto", threads, cluster, allow_mixed):
        return run_rows(title_of(rows), rows, Path(out))
