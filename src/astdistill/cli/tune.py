"""`astdistill tune PRESET`: learning rates for new data, searched on held-out training images."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field

from ..autodiff.dispatch import using
from ..data.description import Description
from ..experiment.config import check_numbers
from ..experiment.cost import Estimate, costs_text, counted, dataset_size
from ..experiment.pipeline import describe_device, print_device
from ..experiment.tuning import (
    HELD_OUT,
    Search,
    check_continued,
    check_search,
    held_out,
    load_optuna,
    whole_counts,
    widest,
)
from ..experiment.tuning import tune as search_rates
from ..experiment.work import Costs, Speed
from ..report.page.tuning import save_tuning_page
from ..report.tuning import CONFIG, FILE, Tuning, trials_table
from ..runtime.devices import check_device, settled_device
from ..runtime.errors import InputError
from ..runtime.parallel import limited, plan_workers
from ..runtime.tables import terminal
from ..runtime.terminal import Terminal
from .checks import Reads, accepts_folder, check_classes, check_size
from .data import print_data
from .flags import Flag, Positional, Word
from .options import ClusterChanges, PresetChanges, PresetCommand, Request
from .saved import name_of, save_config
from .verbs import FIRST, computing_with, lined_up, on_requested_cluster, threads_of

JUDGING = ("distill.validate_epochs", "distill.validate_networks")
"""Settings of the evaluations that compare trials."""
UNSAVED = ("out", "data.validation", *JUDGING)
"""Flags of the search only: the run with the found settings has another folder, and uses all training images, so that
it validates nothing."""


class TuneChanges(ClusterChanges):
    """`ClusterChanges`, and the size of the search."""

    common: ClassVar[tuple[str, ...]] = (
        "trials", "steps", "also", "parallel", "data", "method", "ipc", "model", "device", "threads", "out", "dry_run",
        "config",
    )  # fmt: skip

    trials: int = Field(default=40, ge=1)
    """Number of trials. The same command with a larger number continues the search."""
    steps: Annotated[int, Word(metavar="N")] = Field(default=100, ge=8)
    """Outer steps of the longest trials. Trials are compared after 1/8, 1/4, 1/2 and all of them, and most are stopped
    early."""
    also: tuple[Literal["T", "M", "start"], ...] = ()
    """Also search T (student steps), M (matched expert epochs) or start (largest start epoch). Trials with more student
    steps take longer."""
    parallel: Annotated[int, Word(metavar="N")] = Field(default=1, ge=1)
    """Trials that run at the same time, by --workers processes or on the nodes of --cluster. They are compared after
    each part, and the result depends on this number, not on where they run."""


def command(request: Request) -> None:
    """`astdistill tune PRESET [--trials N] [--steps N] [--also T M start] [any flag of run]`."""
    changes = request.changes
    assert isinstance(changes, TuneChanges)
    if request.log:
        raise InputError(f"--log {request.log[0]} was given, but a search logs to no tracker; leave --log out.")
    if changes.as_json:
        raise InputError("--json shows what a run would cost; leave it out, or use it with: astdistill run --dry-run")
    search = Search(trials=changes.trials, steps=changes.steps, also=changes.also, parallel=changes.parallel)
    check_search(request.experiment, search)
    check_device(request.experiment.device)
    with computing_with(threads_of(request, follow=False)):  # trials save no number of threads
        if request.dry_run:
            _estimate(request, search)
            return
        load_optuna()
        check_numbers(request.experiment)
        with on_requested_cluster(request):
            experiment, dataset = held_out(request.experiment)
            description = Description.of(dataset, experiment.ipc)
            print_device(experiment, description)
            print_data(description)
            tuning = search_rates(experiment, search, request.out, dataset)
    _show(request, tuning)


def _show(request: Request, tuning: Tuning) -> None:
    """Print the table and the flags, and write the file for --config and the page."""
    out, config = request.out, request.out / CONFIG
    winner = tuning.winner
    assert winner is not None, "a search without one raises"
    save_config(config, _run_flags(request.typed), getattr(request.changes, "preset", ""), whole_counts(winner.values))
    run_command = ["astdistill", "run", "--config", str(config), "--out", str(_free_folder(request.experiment.name))]
    tuning = tuning.replace(command=shlex.join(run_command))
    tuning.save(out)
    page = save_tuning_page(tuning, out)
    console = Terminal()
    console.print(terminal(trials_table(tuning)))
    console.print(f"Found:     {tuning.flags}", highlight=False)
    console.print(f"Look at:   {page}\nNumbers:   {out / FILE}\nNext:      {tuning.command}", highlight=False)


def _free_folder(name: str) -> Path:
    """A folder for the run with the found settings: that of the preset may hold a run with other settings."""
    first = Path("runs", f"{name}-tuned")
    numbered = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(folder for folder in itertools.chain([first], numbered) if not folder.exists())


def _run_flags(typed: Sequence[tuple[Flag | Positional, Any]]) -> list[tuple[Flag | Positional, Any]]:
    """The typed flags that `run` also accepts."""
    search_only = set(TuneChanges.model_fields) - set(PresetChanges.model_fields)
    return [(param, value) for param, value in typed if name_of(param) not in (*search_only, *UNSAVED)]


def _estimate(request: Request, search: Search) -> None:
    """Print the cost of a search in which no trial ends early, and what of it is done. The experts are trained once."""
    experiment = request.experiment
    fits = accepts_folder(
        lambda: check_continued(request.experiment, search, request.out), request.changes.out is not None
    )
    if not experiment.data.validation:
        experiment = experiment.replace(data=experiment.data.replace(validation=HELD_OUT))
    settings = experiment.distill.replace(iterations=search.steps, validate_every=max(1, search.steps // 4))
    trial = widest(experiment.replace(distill=settings), search)
    check_numbers(trial)
    check_classes(trial.data)
    device = settled_device(experiment.device)
    plan = plan_workers(search.parallel, experiment.workers, torch.device(device), [trial.model])
    with using(experiment.engine):
        data_size = dataset_size(trial)
        check_size(trial, data_size)
        *expert_stages, distillation, _ = counted(trial, data_size, Costs(device, Speed(device))).stages
    if plan.workers > 1:  # each worker has a share of the threads
        with using(experiment.engine), limited(plan.threads):
            *_, distillation, _ = counted(trial, data_size, Costs(device, Speed(device))).stages
    trials = replace(
        distillation,
        seconds=math.ceil(search.trials / plan.workers) * distillation.seconds,
        memory=plan.workers * distillation.memory,
        disk=search.trials * distillation.disk,
    )
    together = Estimate((*expert_stages, trials)).together
    data_text = f"{data_size.train:,} training and {data_size.validation:,} held-out images, whiten {trial.data.whiten}"
    rows = [
        ("What", f"a search for {trial.name}: {trial.method.name}, {trial.model}, {trial.ipc} per class"),
        ("On", f"{trial.data.source}: {data_text}"),
        (
            "Where",
            describe_device(trial.device, data_size.shape, data_size.classes, trial.model).removeprefix("Device: "),
        ),
        *(("Experts", f"{stage.name}, once: {costs_text(stage)}") for stage in expert_stages),
        ("Trials", f"{search.trials} of {search.steps} outer steps: at most {costs_text(trials)}"),
        ("Together", f"at most {costs_text(together)}; most trials end early"),
    ]
    if fits and (begun := Tuning.read(request.out)) is not None:
        rows.append(("Done", f"{len(begun.trials)} of {search.trials} trials"))
    rows.append(("Goes to", request.output_text))
    for line in lined_up(rows):
        print(line)


tune = PresetCommand(
    "tune",
    command,
    f"Search the learning rates of a preset with Optuna, on held-out training images. {FIRST}",
    kind=TuneChanges,
    folder="tune-{}",
    reads=Reads(always=JUDGING),
)
