"""`astdistill presets`: the cells that can be run by name, with what each would cost on this machine."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table

from ..autodiff.dispatch import EngineName, using
from ..experiment.calibration import Calibration, Counted, calibration
from ..experiment.config import Experiment
from ..experiment.cost import Stage, facts, stages, together
from ..experiment.presets import matching
from ..runtime.config import Record
from ..runtime.devices import supported
from ..runtime.provenance import machine
from ..runtime.status import duration, size
from .commands import command
from .flags import Word


class Presets(Record):
    """The cells that can be run by name, with their published figures and their memory, disk and time on this machine.

    Time is counted work over the speed of this machine, which is measured once and kept in the cache; astdistill run
    PRESET --dry-run times the steps of one preset itself.
    """

    words: Annotated[tuple[str, ...], Word(positional=True, metavar="WORD")] = ()
    """Only presets of this name, data, method or size: cifar100, datm, ipc10."""
    device: str = "cpu"
    """Where it would be computed: cpu or cuda; without one there, no time is shown."""
    engine: EngineName = "auto"
    """What would compute derivatives."""
    as_json: Annotated[bool, Word(flag="json")] = False
    """All settings and costs for scripts, in seconds and bytes."""
    anew: bool = False
    """Measure the speed of this machine again, as after a busy hour."""


@command("presets")
def presets(given: Presets) -> None:
    """Show the presets that fit the words, as a table or as JSON."""
    found = matching(list(given.words))
    supported(given.device)
    with using(given.engine):
        measured = calibration(given.device, given.anew)
    costs = [(each, stages(each, known, Counted(each, known, measured))) for each in found for known in [facts(each)]]
    if given.as_json:
        print(json.dumps(_listing(costs, measured, given.device), indent=2))
    else:
        Console().print(_table(costs, measured, given.device))


def _table(costs: Sequence[tuple[Experiment, list[Stage]]], measured: Calibration | None, device: str) -> Table:
    shown = Table(
        caption=_caption(measured, device), caption_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False
    )
    for column in ("preset", "T/M/t", "%", "experts", "distil", "evaluate", "memory", "disk"):
        shown.add_column(column, no_wrap=True, justify="left" if column == "preset" else "right")
    for cell, found in costs:
        settings, whole = cell.distill, together(found)
        steps = f"{settings.inner_steps}/{settings.matched_epochs}/{settings.max_start_epoch}"
        times = (duration(stage.seconds) for stage in found)
        shown.add_row(
            cell.name, steps, str(cell.published.accuracy or "-"), *times, size(whole.memory), size(whole.disk)
        )
    return shown


def _caption(measured: Calibration | None, device: str) -> str:
    columns = (
        "T inner steps, M matched epochs, start epochs below t; %: the published test accuracy at the final epoch "
        "(hard labels, or datm's "
        "learned ones), - where there is none. Where it stands and which settings are borrowed: --json.\n"
    )
    if measured is None:
        return (
            f"{columns}There is no device {device} here, so no time is shown; memory is that of data, images and kept "
            f"students alone, "
            "without what the network holds while it is computed."
        )
    disturbed = (
        f" It had {measured.share:.0%} of a core beside other work, so times are too long by about as much, and are "
        f"not kept."
        if measured.disturbed
        else ""
    )
    return (
        f"{columns}Costs on {device} with engine {measured.engine}: counted work over speeds measured here on "
        f"{measured.timed} (again: "
        f"--anew).{disturbed} The steps of one preset timed themselves: astdistill run PRESET --dry-run"
    )


def _listing(
    costs: Sequence[tuple[Experiment, list[Stage]]], measured: Calibration | None, device: str
) -> dict[str, Any]:
    head = {"device": device, "machine": machine() if measured is None else machine(device)}
    speed = None if measured is None else {"engine": measured.engine, "timed": measured.timed, "share": measured.share}
    return head | {"measured": speed, "presets": [_described(cell, found) for cell, found in costs]}


def _described(cell: Experiment, found: list[Stage]) -> dict[str, Any]:
    return {
        "preset": cell.name,
        "data": cell.data.source,
        "whiten": cell.data.whiten,
        "model": cell.model,
        "method": cell.method.name,
        "ipc": cell.ipc,
        "settings": cell.distill.to_json(),
        "published": cell.published.accuracy,
        "source": cell.published.source,
        "stages": [_cost(stage) for stage in found],
        "together": _cost(together(found)),
    }


def _cost(stage: Stage) -> dict[str, str | float | int | None]:
    """A stage in seconds and bytes; no seconds where none are known, because JSON has no word for what is not a
    number."""
    seconds = None if math.isnan(stage.seconds) else stage.seconds
    return {"stage": stage.name, "seconds": seconds, "memory": stage.memory, "disk": stage.disk}
