"""Estimated and measured times: portions of six presets, estimated and run on random images of their shape."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from astdistill.cli.commands import Command
from astdistill.cli.flags import Word
from astdistill.data.dataset import Dataset
from astdistill.data.tensors import dataset_from_tensors
from astdistill.distillation.loop import distill
from astdistill.evaluation.runner import evaluate_all
from astdistill.experiment.config import Experiment
from astdistill.experiment.cost import DatasetSize, counted, dataset_size
from astdistill.experiment.presets import preset, with_method
from astdistill.experiment.work import Costs, Speed
from astdistill.experts.store import TrajectoryStore
from astdistill.experts.training import train_experts
from astdistill.methods.method import Method
from astdistill.methods.outer_step import TrajectoryMatching
from astdistill.runtime.config import Record
from astdistill.runtime.errors import InputError, unknown
from astdistill.runtime.files import write_json
from astdistill.runtime.machine import NAMED_BY_USERS, waiting
from astdistill.runtime.parallel import NUMBERS, limited
from astdistill.runtime.progress import bar, be_quiet
from astdistill.runtime.provenance import provenance, without_places
from astdistill.runtime.seeds import rng

from .children import ask_until_parent_ends, paths_of_the_suite
from .shared import busy, chosen_now

CASES = {
    "digits-ipc1": "",
    "cifar100-ten-ipc10": "",
    "cifar100-ten-ipc10 by dm": "dm",
    "cifar10-ipc1-mtt": "",
    "cifar10-ipc1-tesla": "",
    "cifar100-ipc1": "",
}
IMAGES, TESTED, STEPS, OUTER, EPOCHS, SEEN = 512, 512, 2, 3, 3, 1000
"""Training and test images, inner and outer steps, and epochs of a portion, where the preset has more; and the least
number of images that a network of the evaluation sees in all."""
SMALL, SMALL_OUTER = 2000, 30
"""A preset with fewer than `SMALL` training images keeps its inner steps and epochs, and takes `SMALL_OUTER` outer
steps: its stages take seconds, a large part of which is spent before and after the steps."""


class Seconds(NamedTuple):
    """Wall-clock seconds of a portion, and processor seconds of this thread."""

    wall: float
    own: float


@dataclass(frozen=True)
class Row:
    """One stage of one preset next to `busy` busy processes: estimated and measured in each repetition."""

    case: str
    stage: str
    busy: int
    estimates: list[float]
    taken: list[Seconds]
    threads: list[int]
    """Threads of a step, as many as a run chooses."""

    @property
    def ratios(self) -> tuple[float, float]:
        """Medians over repetitions of the estimate over the time taken, and over the processor time."""
        pairs = list(zip(self.estimates, self.taken, strict=True))
        return (
            statistics.median(estimated / taken.wall for estimated, taken in pairs),
            statistics.median(estimated / taken.own for estimated, taken in pairs),
        )


def portion(case: str, store: Path) -> tuple[Experiment, Dataset, DatasetSize]:
    """A portion of a preset: fewer images, epochs and steps, and one of each network, on random images."""
    full = preset(case.split(" ")[0])
    full = with_method(full, CASES[case]) if CASES[case] else full
    size, recipe = dataset_size(full), full.evaluation.recipe
    needed = max(full.ipc * 2, getattr(full.method.step, "batch_real", 0))  # of each class, as in the preset
    small, epochs = size.train < SMALL, max(EPOCHS, SEEN // (full.ipc * size.classes))
    if not small:
        train = min(size.train, max(IMAGES, size.classes * needed))
        size = DatasetSize(size.shape, size.classes, train, min(size.test, TESTED))
        recipe = recipe.replace(epochs=epochs)
    iterations = {True: SMALL_OUTER, False: OUTER}[small]
    experiment = full.replace(
        experts=full.experts.replace(count=1, store=store, stop_after=None),
        method=_shortened(full.method, small),
        distill=full.distill.replace(iterations=iterations, snapshots=False, lr_lr=0.0),
        evaluation=full.evaluation.replace(networks=1, baselines=(), recipe=recipe),
        workers=1,
    )
    generator, (channels, height, width) = rng(0, "estimate"), size.shape
    images = [
        torch.randint(256, (count, channels, height, width), generator=generator, dtype=torch.uint8)
        for count in (size.train, size.test)
    ]
    labels = [torch.arange(count) % size.classes for count in (size.train, size.test)]
    return experiment, dataset_from_tensors(images[0], labels[0], images[1], labels[1]), size


def _shortened(method: Method, small: bool) -> Method:
    """The method with a learning rate of experts that keeps every number finite on random labels and, unless it is
    `small`, with few steps and experts of a few epochs."""
    if method.expert is None:
        return method
    if small:
        return method.replace(expert=method.recipe.replace(lr=1e-5, loss_warmup_epochs=0))
    step = method.step
    if isinstance(step, TrajectoryMatching):
        step = step.replace(syn_steps=min(STEPS, step.syn_steps), expert_epochs=1, max_start_epoch=1)
    return method.replace(expert=method.recipe.replace(epochs=EPOCHS, lr=1e-5, loss_warmup_epochs=0), step=step)


def train(experiment: Experiment, dataset: Dataset) -> TrajectoryStore:
    """The expert of a portion, read from the store if it is stored there."""
    settings = experiment.experts
    return train_experts(
        dataset, model=experiment.model, recipe=experiment.method.recipe, count=1, store=settings.store, workers=1
    )


def repetition(case: str) -> dict[str, tuple[float, Seconds]]:
    """The estimated and the measured seconds of each stage."""
    with tempfile.TemporaryDirectory() as folder:
        experiment, dataset, size = portion(case, Path(folder))
        found = counted(experiment, size, Costs(experiment.device, Speed(experiment.device))).stages
        taken: list[Seconds] = []
        experts = None
        if experiment.method.expert is not None:
            taken.append(_timed(lambda: train(experiment, dataset)))
            experts = train(experiment, dataset)
        clock = [_now()]
        synthetic = distill(
            dataset,
            experts,
            method=experiment.method,
            model=experiment.model,
            ipc=experiment.ipc,
            settings=experiment.distill,
            observers=[lambda run, state, line: clock.append(_now())],
        )
        # From the end of the first step to that of the last: setup before the steps is not part of their pace.
        share = experiment.distill.iterations / (experiment.distill.iterations - 1)
        taken.append(Seconds(*(share * (last - first) for first, last in zip(clock[1], clock[-1], strict=True))))
        evaluation = experiment.evaluation
        taken.append(
            _timed(
                lambda: evaluate_all(
                    synthetic, dataset, recipe=evaluation.recipe, seeds=1, baselines=(), workers=experiment.workers
                )
            )
        )
        names = [*(["experts"] if experiment.method.expert else []), "distillation", "evaluation"]
        return {name: (stage.seconds, spent) for name, stage, spent in zip(names, found, taken, strict=True)}


def _now() -> Seconds:
    return Seconds(time.perf_counter(), time.thread_time())


def _timed(work: Callable[[], object]) -> Seconds:
    began = _now()
    work()
    return Seconds(*(after - before for before, after in zip(began, _now(), strict=True)))


class Measurer:
    """A process that measures portions on request, with threads that wait as those of the command do; it ends with this
    process."""

    def __init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in (*NAMED_BY_USERS, *NUMBERS)}
        environment |= waiting(environment) | {"PYTHONPATH": paths_of_the_suite()}
        command = [sys.executable, "-m", "suite.estimate"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )

    def repetition(self, case: str) -> tuple[int, dict[str, tuple[float, Seconds]]]:
        """The chosen number of threads, and the result of `repetition`. Raises InputError where the process has
        ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # detected by the empty answer
            print(case, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise InputError(f"The measurement of {case} ended early; its errors stand above. Measure again.")
        threads, stages = json.loads(answer)
        return threads, {stage: (estimated, Seconds(*taken)) for stage, (estimated, taken) in stages.items()}

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.communicate()


def _serve() -> None:
    """Measure each portion named on the standard input, with the threads of a run that starts at that moment."""
    be_quiet(True)

    def answer(case: str) -> None:
        step, divided = chosen_now()
        with limited(step, divided):
            print(json.dumps([step, repetition(case)]), flush=True)

    ask_until_parent_ends(answer)


class EstimateFlags(Record):
    """Estimates beside what is then taken: portions of six presets, estimated and run on random images, alone and
    beside a busy process."""

    case: Annotated[tuple[str, ...], Word(metavar="CASE", repeated=True)] = ()
    """Measure only this case; may be repeated."""
    busy: Annotated[tuple[int, ...], Word(metavar="COUNT", repeated=True)] = (0, 1)
    """Busy processes beside it, which this bench starts and ends; may be repeated. None means 0, and then 1."""
    n: Annotated[int, Word(flag="-n")] = 3
    """Repetitions."""
    to: Annotated[Path | None, Word(flag="json", metavar="FILE")] = None
    """Write the figures, with machine and versions, to FILE."""


def estimate(arguments: list[str]) -> None:
    """`make bench NAME=estimate`: measure, and show the ratios. Raises InputError for an unknown case."""
    command = Command("estimate", lambda flags: _estimate(flags, arguments), EstimateFlags)
    command.prog = "python -m suite estimate"
    with command.make_context("estimate", list(arguments), obj={}) as ctx:
        be_quiet(ctx.params["quiet"])
        command.call(ctx)


def _estimate(flags: EstimateFlags, arguments: list[str]) -> None:
    for case in flags.case:
        if case not in CASES:
            raise unknown("case", case, CASES)
    if min(flags.busy, default=0) < 0:
        raise InputError(f"--busy {min(flags.busy)} was given; choose 0 or more busy processes.")
    rows: dict[tuple[str, str, int], Row] = {}
    speed, cases, measurer = Speed("cpu"), flags.case or tuple(CASES), Measurer()
    with closing(measurer), bar("estimates (portions)", flags.n * len(cases) * len(flags.busy)) as progress:
        for case, load in ((case, load) for _ in range(flags.n) for case in cases for load in flags.busy):
            with busy(load):
                threads, found = measurer.repetition(case)
            for stage, (estimated, taken) in found.items():
                row = rows.setdefault((case, stage, load), Row(case, stage, load, [], [], []))
                row.threads.append(threads)
                row.estimates.append(estimated)
                row.taken.append(taken)
            progress.step(note=f"{case} beside {load}")
    Console().print(_table(list(rows.values()), speed.load))
    if flags.to is not None:
        origin = provenance() | {"arguments": without_places(["suite", "estimate", *arguments]), "load": speed.load}
        write_json(flags.to, origin | {"rows": [vars(row) | {"ratios": row.ratios} for row in rows.values()]})


def _table(rows: list[Row], load: float) -> Table:
    table = Table(
        caption="Medians. time: estimate over time taken (goal: within a factor of 1.3 alone, and of 2 beside others); "
        "processor: over the time for which the thread that was "
        f"measured computed, which other work changes less. Load average before: {load:.1f}.",
        caption_justify="left",
    )
    for column in ("portion of", "stage", "busy", "threads", "estimate, s", "taken, s", "time", "processor", "n"):
        table.add_column(column, no_wrap=True, justify="left" if column in ("portion of", "stage") else "right")
    for row in rows:
        estimated, wall = statistics.median(row.estimates), statistics.median(taken.wall for taken in row.taken)
        time_ratio, own_ratio = row.ratios
        table.add_row(
            row.case,
            row.stage,
            str(row.busy),
            ", ".join(map(str, sorted(set(row.threads)))),
            f"{estimated:.3g}",
            f"{wall:.3g}",
            f"{time_ratio:.2f}",
            f"{own_ratio:.2f}",
            f"{len(row.taken)}",
        )
    return table


if __name__ == "__main__":
    _serve()
