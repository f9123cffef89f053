"""`astdistill sweep`: a table of whole runs. Its two other forms are `run --seeds` and `run ablation`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ..autodiff.dispatch import on_cluster, using
from ..data.description import Description
from ..evaluation.protocol import PROTOCOLS
from ..experiment.config import Experiment, check_numbers
from ..experiment.cost import counted, dataset_size
from ..experiment.plan import Row, ablation, over_seeds, shared_experts, table, title_of
from ..experiment.presets import PRESETS, preset
from ..experiment.sweep import check_out, run_rows
from ..experiment.work import Costs, Speed
from ..methods.registry import methods as known_methods
from ..report.sweep import FILE, PAGE, STEM, Line, Sweep, sweep_table
from ..runtime.config import Record
from ..runtime.devices import check_device, settled_device
from ..runtime.errors import InputError
from ..runtime.files import warn
from ..runtime.machine import MOST_SIDE_BY_SIDE
from ..runtime.parallel import limited, own_threads
from ..runtime.status import duration, size
from ..runtime.tables import Column, Tabulation, terminal
from ..runtime.terminal import Terminal
from .checks import accepts_folder, check_classes, check_once, check_size, sweep_notes
from .commands import command
from .data import print_data
from .flags import Word
from .options import Changes, PresetCommand, Request, with_changes


class SweepChanges(Record):
    """Run a table of whole runs: each preset by each method, with each combination of settings and each seed. Experts
    that several runs use are trained once. The same command resumes."""

    presets: Annotated[tuple[str, ...], Word(positional=True, metavar="PRESET", names=lambda: PRESETS)] = ()
    methods: Annotated[tuple[str, ...], Word(metavar="METHOD,METHOD", names=known_methods)] = ()
    """Methods to run with each preset (default: the method of the preset). Differences are to the first."""
    seeds: int = Field(default=3, ge=1, le=10_000)
    """Number of whole runs per line of the table, each with its own seed and experts."""
    settings: Annotated[tuple[str, ...], Word(flag="set", metavar="KEY=A,B", repeated=True)] = ()
    """A setting, by the name of its flag, and its values: distill.lr_img=100,1000. A single value applies to all runs.
    Words of one value are joined by +: evaluation.baselines=random+kmeans. May be repeated."""
    data: Annotated[str | None, Word(metavar="PATH")] = None
    """Data to use in place of those of each preset, as with run."""
    protocol: Annotated[str | None, Word(names=lambda: PROTOCOLS)] = None
    """Evaluation protocol of all runs: {names}."""
    out: Path | None = None
    """Folder of the sweep (default: runs/ and the names of the presets)."""
    device: str | None = None
    """auto, cpu, cuda, or cuda:N."""
    workers: int | None = Field(default=None, ge=1, le=MOST_SIDE_BY_SIDE)
    """Runs at the same time on a CPU (default: the number with which all runs end first)."""
    threads: int | None = Field(default=None, ge=1, le=MOST_SIDE_BY_SIDE)
    """CPU threads, divided among the runs; on a cluster those of each run (default: 1)."""
    cluster: Annotated[str | None, Word(metavar="auto|HOST:PORT")] = None
    """Run on the nodes of this Ray cluster; auto: the cluster that this machine belongs to."""
    allow_mixed: bool = False
    """Also use nodes with another engine, instruction set or versions, whose results differ in the last bits."""
    log: Annotated[tuple[str, ...], Word(repeated=True, names=lambda: ("tensorboard", "wandb"))] = ()
    """Also log every run to tensorboard or wandb. May be repeated."""
    dry_run: bool = False
    """Only show the table and its estimated time, memory and disk."""


@command("sweep")
def sweep(options: SweepChanges) -> int:
    """Run a table of whole runs, and write its page."""
    if not options.presets:
        raise InputError(
            "Name a preset: astdistill sweep PRESET --methods mtt,ast. They are listed by: astdistill presets"
        )
    check_once("PRESET", options.presets)
    names = list(options.presets)
    bases = [_base_experiment(options, name) for name in names]
    methods = [method for group in options.methods for method in group.split(",") if method]
    check_once("--methods", methods)
    settings = _parse_settings(options.settings)
    rows = table(bases, methods, options.seeds, settings)
    for note in sweep_notes(rows, settings):
        warn(note)
    out = options.out or Path("runs", "-".join(["sweep", *names]))
    with limited(options.threads or own_threads()):
        if options.dry_run:
            estimate(rows, out, options.out is not None)
            return 0
        with on_cluster(options.cluster, options.threads, options.allow_mixed):
            return print_results(
                run_rows(
                    title_of(rows), rows, out, tuple(dict.fromkeys(options.log)), lambda _, data: print_data(data)
                ),
                out,
            )


def _base_experiment(options: SweepChanges, name: str) -> Experiment:
    """A preset with the settings that all rows share."""
    base = with_changes(preset(name), Changes(data=options.data, protocol=options.protocol))
    overrides = {"device": options.device, "workers": options.workers}
    base = base.replace(**{name: value for name, value in overrides.items() if value is not None})
    check_device(base.device)
    return base


def _parse_settings(texts: Sequence[str]) -> dict[str, list[str | None]]:
    """The settings of all --set by name. Raises InputError for one that is given twice: only the last would be run."""
    parsed = list(map(_parse_setting, texts))
    check_once("--set", [name for name, _ in parsed])
    return dict(parsed)


def _parse_setting(text: str) -> tuple[str, list[str | None]]:
    """The name of a setting and its values. Raises InputError if there is no '='."""
    name, equals, values = text.partition("=")
    if not equals:
        raise InputError(f"--set {text} says no value; write --set {name}=VALUE, or {name}=ONE,ANOTHER.")
    if name == "seed":
        raise InputError(
            f"--set {text} was given, but --seeds N counts the seeds of a sweep; use that, from seed 0 on."
        )
    none_values = {"none": None, "None": None}
    return name, [none_values.get(value, value) for value in values.split(",")]


def print_results(finished: Sweep, out: Path) -> int:
    """Print the table and the paths of the files, and return the exit code: 1 if a row has failed."""
    console = Terminal()
    console.print(terminal(sweep_table(finished)))
    for row in finished.of("failed"):
        console.print(f"Failed:    {row.folder}: {row.sentence}", highlight=False, markup=False)
    console.print(f"Look at:   {out / PAGE}", highlight=False)
    console.print(f"Table:     {out / STEM}.txt, .md, .tex\nNumbers:   {out / FILE}", highlight=False)
    console.print(f"Compare:   astdistill compare {out}", highlight=False)
    return int(bool(finished.of("failed")))


def run_seeds(request: Request, seeds: int, on_data: Callable[[Description], None]) -> int:
    """`run --seeds`: the rows that differ only in their seed."""
    rows = over_seeds(request.experiment, seeds)
    title = f"{request.experiment.name}, {seeds} whole runs"
    with limited(request.changes.threads or own_threads()):
        return print_results(
            run_rows(title, rows, request.out, request.log, lambda _, data: on_data(data)), request.out
        )


class AblationChanges(Changes):
    """`Changes`, and the preset whose parts are removed."""

    base: Annotated[str, Word(metavar="PRESET", names=lambda: PRESETS)] = ""
    """Preset whose parts are removed; they are listed by: astdistill presets"""
    seeds: int = 3
    """Number of whole runs per variant, each with its own seed and experts."""
    cluster: Annotated[str | None, Word(metavar="auto|HOST:PORT")] = None
    """Run on the nodes of this Ray cluster, each run on --threads cores (default: 1)."""
    allow_mixed: bool = False
    """Also use nodes with another engine, instruction set or versions, whose results differ in the last bits."""


def _base_of_ablation(changes: AblationChanges, remaining: Sequence[str]) -> str:
    if not changes.base:
        base = next(iter(remaining), "cifar100-ten-ipc10")
        raise InputError(f"Name the preset of the ablation: astdistill run ablation --base {base} --seeds 3")
    return changes.base


def run_ablation(request: Request) -> int:
    """`astdistill run ablation --base PRESET [--seeds N] [any flag of run]`."""
    assert isinstance(request.changes, AblationChanges)
    seeds, out = request.changes.seeds, request.out
    if seeds < 1:
        raise InputError(f"--seeds {seeds} was given; an ablation needs at least 1, and 3 for a spread.")
    experiment = request.experiment
    check_device(experiment.device)
    rows = ablation(experiment, seeds)
    with limited(request.changes.threads or own_threads()):
        if request.dry_run:
            estimate(rows, out, request.changes.out is not None)
            return 0
        check_numbers(experiment)
        title, changes = f"{experiment.method.name} on {experiment.name}", request.changes
        with using(experiment.engine), on_cluster(changes.cluster, changes.threads, changes.allow_mixed):
            return print_results(run_rows(title, rows, out, request.log, lambda _, data: print_data(data)), out)


ablation_command = PresetCommand(
    "run ablation",
    run_ablation,
    "Repeat a preset without each part of its method in turn, and without all of them. All flags of run are accepted.",
    kind=AblationChanges,
    preset=_base_of_ablation,
    folder="ablation-{}",
    prog="astdistill {verb} --base {}",
)


def estimate(rows: Sequence[Row], out: Path, typed: bool) -> None:
    """Print the estimated cost of every line of the table. Experts of one recipe are trained once. Raises InputError,
    with nothing measured, for a folder that the sweep would refuse, if the user typed it, and warns otherwise."""
    accepts_folder(lambda: check_out(out), typed)
    lines: dict[Line, list[Row]] = {}
    for row in rows:
        lines.setdefault(row.waiting().line, []).append(row)
    trained = {group.rows[0].folder: group.experiment for group in shared_experts(rows) if group.trained}
    device = settled_device(rows[0].experiment.device)
    speed, total_seconds, disk, memory = Speed(device), 0.0, 0, 0
    costs, table_rows = Costs(device, speed), list[tuple[str, ...]]()
    for line, members in lines.items():
        first = members[0]
        check_numbers(first.experiment)
        check_classes(first.experiment.data)
        if first.experiment.distill.validate_every:
            check_size(first.experiment, dataset_size(first.experiment))
        *expert_stages, distillation, evaluation = _stages(first.experiment, costs)
        trained_here = [trained[row.folder] for row in members if row.folder in trained]
        experts = ""
        if expert_stages and first.experiment.experts.imported is None:
            experts = "shared"
        if trained_here:
            stages = _stages(trained_here[0], costs)[:-2]
            expert_seconds = len(trained_here) * sum(stage.seconds for stage in stages)
            experts, total_seconds = duration(expert_seconds), total_seconds + expert_seconds
            disk += len(trained_here) * sum(stage.disk for stage in stages)
        other_seconds = len(members) * (distillation.seconds + evaluation.seconds)
        total_seconds += other_seconds
        disk += len(members) * (distillation.disk + evaluation.disk)
        memory = max(memory, *(stage.memory for stage in (*expert_stages, distillation, evaluation)))
        table_rows.append((*line, str(len(members)), experts, duration(other_seconds)))
    table_rows.append(("together", "", "", str(len(rows)), "", duration(total_seconds)))
    columns = [Column(name, left_aligned=True) for name in ("preset", "method", "settings")]
    columns += [Column("runs"), Column("experts"), Column("distillation and evaluation")]
    notes = (
        f"Counted work over a speed measured just now, one run after another. {_finished_note(rows, out)}".rstrip(),
        f"At most {size(memory)} memory in each run; {size(disk)} disk together.",
        speed.disturbed(),
        f"It would go to {out}.",
    )
    Terminal().print(terminal(Tabulation(tuple(columns), tuple(table_rows), " ".join(filter(None, notes)))))


def _stages(experiment: Experiment, costs: Costs):
    with using(experiment.engine):
        return counted(experiment, dataset_size(experiment), costs).stages


def _finished_note(rows: Sequence[Row], out: Path) -> str:
    """How many of the runs are finished already."""
    previous = Sweep.read(out)
    if previous is None:
        return ""
    done = {(row.folder, row.decisive) for row in previous.of("finished")}
    count = sum((row.folder, row.waiting().decisive) in done for row in rows)
    return f"{count} of {len(rows)} runs are finished there already and are not run again."
