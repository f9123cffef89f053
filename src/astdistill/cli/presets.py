"""`astdistill presets`: the presets, with their costs on this machine."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from ..runtime.config import Record
from ..runtime.devices import EngineName, check_device, settled_device, supported
from ..runtime.progress import bar
from ..runtime.provenance import machine
from ..runtime.status import duration, size
from ..runtime.tables import ABSENT, Column, Tabulation, terminal
from ..runtime.terminal import Terminal
from .commands import command
from .flags import Word

if TYPE_CHECKING:
    from ..experiment.config import Experiment
    from ..experiment.cost import Estimate, Stage
    from ..experiment.work import Costs, Speed

    Costed = list[tuple[Experiment, Estimate]]

TIMED_STAGES = "experts", "distil", "evaluate"
"""Columns of times, one for each stage of a run."""


class Presets(Record):
    """List the presets, which are benchmark settings: published figures, and multiply-adds, memory and disk of a run;
    with --time also its time on this machine.

    All settings and stages of one preset: astdistill run PRESET --dry-run
    """

    words: Annotated[tuple[str, ...], Word(positional=True, metavar="WORD")] = ()
    """Show only presets of this name, data set, method or size, for example: cifar100, datm, ipc10."""
    device: str = "auto"
    """Device that the costs are for: auto, cpu or cuda."""
    engine: EngineName = "auto"
    """How derivatives would be computed."""
    as_json: Annotated[bool, Word(flag="json")] = False
    """Print all settings and costs as JSON, in seconds and bytes."""
    time: bool = False
    """Measure the speed of this machine (seconds to minutes) and show estimated times."""


@command("presets")
def presets(options: Presets) -> None:
    """Print the presets that match the words, as a table or as JSON."""
    from ..autodiff.dispatch import using  # here and below, so that --help loads no torch
    from ..experiment.presets import matching
    from ..experiment.work import Costs

    experiments, device = matching(list(options.words)), settled_device(options.device)
    if options.time:
        check_device(device)
        with using(options.engine):
            costs = _measure_costs(experiments, device)
    else:
        supported(device)
        with using(options.engine):
            costs = _count_costs(experiments, Costs(device))
    speed = costs[0][1].speed
    if options.as_json:
        print(json.dumps(_listing(costs, speed, device), indent=2))
    else:
        Terminal().print(terminal(_table(costs, speed, device)))


def _count_costs(experiments: Sequence[Experiment], costs: Costs) -> Costed:
    from ..experiment.cost import counted, dataset_size

    return [(each, counted(each, dataset_size(each), costs)) for each in experiments]


def _measure_costs(experiments: Sequence[Experiment], device: str) -> Costed:
    """The costs with times. Presets with the same network share measurements."""
    from ..experiment.work import Costs, Speed

    costs, measured = Costs(device, Speed(device)), []
    with bar("measuring this machine (presets)", len(experiments)) as progress:
        for each in experiments:
            measured += _count_costs([each], costs)
            progress.step()
    return measured


def _table(costs: Costed, speed: Speed | None, device: str) -> Tabulation:
    from ..experiment.cost import operations

    times = ()
    if speed is not None:
        times = TIMED_STAGES
    columns = [Column("preset", left_aligned=True, no_wrap=True)]
    columns += [Column(name) for name in ("T/M/t", "%", "peer", "work", *times, "memory", "disk")]
    rows = []
    for experiment, cost in costs:
        total = cost.together
        times_of_stages = []
        if speed is not None:
            times_of_stages = [duration(stage.seconds) for stage in cost.stages]
            # a method without experts has the later stages only
            times_of_stages[:0] = [ABSENT] * (len(TIMED_STAGES) - len(cost.stages))
        counts = operations(total.work), *times_of_stages, size(total.memory), size(total.disk)
        figures = (
            str(figure or ABSENT) for figure in (experiment.published.accuracy, experiment.published.peer.accuracy)
        )
        rows.append((experiment.name, experiment.method.step.counts or ABSENT, *figures, *counts))
    return Tabulation(tuple(columns), tuple(rows), _caption(speed, device))


def _caption(speed: Speed | None, device: str) -> str:
    columns = (
        "A name without a method is AST's. T inner steps, M matched epochs, start epochs below t; %: the test accuracy "
        "that the method's authors published, – if unknown. Labels are hard; learned in datm, at-bptt and, except on "
        "CIFAR-10, rat-bptt; a teacher's in ncfm and rded. peer: the best of other methods with hard labels. "
        "Sources and borrowed settings: --json. Work: multiply-adds."
    )
    if speed is None:
        return f"{columns} Times on this machine: --time."
    return f"{columns}\nTimes on {device}: work over speeds measured just now. {speed.disturbed()}".strip()


def _listing(costs: Costed, speed: Speed | None, device: str) -> dict[str, Any]:
    if speed is None:
        about = {"device": device, "machine": machine(), "measured": None}
    else:
        measured = {"share": speed.share, "load": speed.load}
        about = {"device": device, "machine": machine(device), "measured": measured}
    return about | {"presets": [_preset_json(experiment, cost) for experiment, cost in costs]}


def _preset_json(experiment: Experiment, cost: Estimate) -> dict[str, Any]:
    return {
        "preset": experiment.name,
        "data": experiment.data.source,
        "whiten": experiment.data.whiten,
        "model": experiment.model,
        "method": experiment.method.name,
        "ipc": experiment.ipc,
        "step": experiment.method.step.to_json(),
        "settings": experiment.distill.to_json(),
        "published": experiment.published.accuracy,
        "source": experiment.published.source,
        "peer": experiment.published.peer.accuracy,
        "peer_source": experiment.published.peer.source,
        "stages": [_stage_json(stage) for stage in cost.stages],
        "together": _stage_json(cost.together),
    }


def _stage_json(stage: Stage) -> dict[str, str | float | int | None]:
    """A stage in multiply-adds, seconds and bytes. Seconds are None if nothing was measured, because JSON has no
    NaN."""
    seconds = stage.seconds
    if math.isnan(seconds):
        seconds = None
    values = {"stage": stage.name, "multiply_adds": round(stage.work), "seconds": seconds}
    return values | {"memory": stage.memory, "disk": stage.disk}
