"""The subcommands that start from a preset: parse, call the library, print."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from ..autodiff.dispatch import on_cluster, using
from ..data.description import COLUMNS, Description, item, shape_text
from ..distillation.settings import check_slots
from ..evaluation.scores import Scores, table, taught_table
from ..experiment import cost as estimate
from ..experiment.config import Experiment, check_numbers, expert_epochs, load_data
from ..experiment.cost import DatasetSize, Estimate
from ..experiment.pipeline import (
    check_continued,
    distill_experiment,
    obtain_experts,
    prepare,
    print_device,
    run_experiment,
    tracked,
)
from ..experiment.sweep import check_out
from ..experiment.work import Costs, describe_device
from ..experts.cloud import scratch_of
from ..experts.training import experts_of_shard
from ..report.figures import epoch_table, quality_table
from ..report.live import LiveRun
from ..report.page.page import renew_page
from ..runtime import progress
from ..runtime.cluster import check_address, used
from ..runtime.devices import check_device, settled_device
from ..runtime.errors import InputError
from ..runtime.files import check_folder
from ..runtime.machine import Threads, free_memory
from ..runtime.mirror import mirror_address, mirrored
from ..runtime.parallel import default_threads, limited, own_threads, why_fewer
from ..runtime.provenance import machine
from ..runtime.run_dir import RunDir
from ..runtime.status import duration, size
from ..runtime.tables import terminal
from ..runtime.terminal import Terminal
from ..runtime.text import many
from .checks import Reads, accepts_folder, check_classes, check_size
from .data import chosen, plain, print_data
from .options import Changes, ClusterChanges, ExpertChanges, PresetCommand, Request, RunChanges
from .sweep import run_seeds

FIRST = (
    "PRESET is a benchmark setting (list: astdistill presets); without it, settings are chosen for --data. "
    "--data, --method, --init, --part, --without and --protocol change the preset before other flags are read."
)


def run_preset(request: Request) -> int:
    """Run all stages from data to scores, and print the scores and the files to look at."""
    if only_estimate(request):
        return 0
    check_device(request.experiment.device)
    mirror = getattr(request.changes, "mirror", None)
    if seeds := getattr(request.changes, "seeds", None):
        if mirror is not None:
            raise InputError(f"--mirror {mirror} copies one run, not {seeds}; leave out --mirror or --seeds.")
        with on_requested_cluster(request):
            return run_seeds(request, seeds, teller(request))
    check_folder(request.out, "--out")
    finished = LiveRun.of(request.out).finished and RunDir(request.out).scores.exists()
    with mirrored(request.out, mirror), computing_with(threads_of(request)), on_requested_cluster(request):
        scores = run_experiment(request.experiment, request.out, request.log, teller(request))
    if finished and not progress.is_quiet():
        plain(f"{request.out} was finished before; its results are reused.")
    _show(scores, request.out, request.experiment)
    return 0


def train(request: Request) -> None:
    """Train the experts of a preset, and print their quality."""
    changes, experiment = request.changes, request.experiment
    assert isinstance(changes, ExpertChanges)
    if experiment.method.expert is None:
        raise InputError(
            f"Method '{experiment.method.name}' trains no experts; "
            f"distil with: {request.command_for('run')} --method {experiment.method.name}"
        )
    experts_of_shard(changes.shard, experiment.experts.count)
    if only_estimate(request):
        return
    check_device(experiment.device)
    check_numbers(experiment)
    with computing_with(threads_of(request, follow=False)), on_requested_cluster(request):
        dataset = load_data(experiment)
        description = Description.of(dataset, experiment.ipc)
        print_device(experiment, description)
        teller(request)(description)
        with tracked(experiment, scratch_of(experiment.experts.store), request.log) as recorder:
            store = obtain_experts(experiment, dataset, recorder, changes.shard)
    console = Terminal()
    console.print(epoch_table(experiment.method.name, store.curves()))
    console.print(quality_table({experiment.method.name: store.curves()}))
    console.print(f"Experts: {store.folder}", highlight=False)
    figure = store.scratch / "quality.png"
    if figure.exists():
        console.print(f"Figure:  {figure}", highlight=False)


@contextmanager
def on_requested_cluster(request: Request) -> Iterator[None]:
    """Inside the block, experts, evaluated networks and the trajectories of a step are computed where the flags request
    it: on a cluster, which is contacted now, before data are read, or in this process."""
    changes, experiment = request.changes, request.experiment
    if not isinstance(changes, ClusterChanges):
        yield
        return
    with using(experiment.engine), on_cluster(changes.cluster, changes.threads, changes.allow_mixed):
        if (cluster := used()) is not None:
            cluster.connect(gpu=settled_device(experiment.device) != "cpu")
        yield


def distil(request: Request) -> None:
    """Make a distilled set without evaluating it."""
    if only_estimate(request):
        return
    check_device(request.experiment.device)
    with computing_with(threads_of(request)), on_requested_cluster(request):
        dataset = prepare(request.experiment, request.out, teller(request))
        with RunDir(request.out).writing(), tracked(request.experiment, request.out, request.log) as recorder:
            distill_experiment(request.experiment, dataset, request.out, recorder)
    preview = renew_page(request.out) or RunDir(request.out).images
    Terminal().print(f"Look at:  {preview}\nNext:     astdistill evaluate {request.out}", highlight=False)


def _show(scores: Scores, out: Path, experiment: Experiment) -> None:
    console = Terminal()
    for tabulation in filter(None, (table(scores), taught_table(scores))):
        console.print(terminal(tabulation))
    published = experiment.published
    for label, figure in {"Published": published, "Best peer": published.peer}.items():
        if figure.accuracy is not None:
            console.print(f"{label} for {experiment.name}: {figure.accuracy} % ({figure.source}).", highlight=False)
    run = RunDir(out)
    for path in (run.page, run.images):
        if path.exists():
            console.print(f"Look at:   {path}", highlight=False)
    console.print(f"Numbers:   {run.scores}", highlight=False)


def threads_of(request: Request, follow: bool = True) -> Threads:
    """Threads of the CPU: the requested number, or the number that the run was begun with on this kind of processor,
    because the last bits of its results depend on it.

    In a new run, workers divide one thread for each core that this process may use, regardless of other processes. A
    step in this process takes as many threads on a CPU as other processes leave cores free at its beginning
    (`default_threads`), unless `follow` is false. It is false for a command that computes no step itself, for
    example because several runs are jobs of workers, or that saves no number of threads.
    """
    if (requested := request.changes.threads) is not None:
        return Threads(requested, requested)
    default, follow = own_threads(), follow and settled_device(request.experiment.device) == "cpu"
    follow = follow and not getattr(request.changes, "seeds", None)
    saved = RunDir(request.out).threads(machine()["processor"])
    if saved is None and follow:
        available = default_threads(default)
        if reason := why_fewer(available):
            progress.tell(reason)
        return available
    if saved is None:
        return Threads(default, default)
    if not follow:
        saved = Threads(saved.divided, saved.divided)
    if saved != (default, default) and settled_device(request.experiment.device) == "cpu":
        progress.tell(
            f"This run was begun with {many(saved.step, 'thread')} and keeps them, so that its results stay equal "
            f"to the bit; to use {default}: --threads {default}"
        )
    return saved


def computing_with(threads: Threads) -> AbstractContextManager[None]:
    """Inside the block, this process computes with these threads, and its workers divide theirs."""
    return limited(threads.step, threads.divided)


def teller(request: Request) -> Callable[[Description], None]:
    """A callback that prints the description of the data, the settings chosen for them, and, without a preset, the
    estimated cost of the run."""

    def print_description(description: Description) -> None:
        experiment = request.experiment
        print_data(description)
        _warn_of_memory(experiment, estimate.size_of(description), request.skipped_stages)
        if progress.is_quiet():
            return
        for line in reasons(request):
            plain(line)
        if request.proposal is not None:
            with using(request.experiment.engine):
                plain(expected(estimate.estimate(experiment, estimate.size_of(description), request.skipped_stages)))

    return print_description


def _warn_of_memory(experiment: Experiment, data_size: DatasetSize, skipped: int) -> None:
    """Warn of stages, but the last `skipped` of a run, that will not fit into memory, before they begin. The images are
    loaded already."""
    device = settled_device(experiment.device)
    if device != "cpu" or experiment.ipc * data_size.classes > data_size.train:  # the run raises an error for it
        return
    with using(experiment.engine):
        costs = estimate.counted(experiment, data_size, Costs(device), skipped)
    if short := estimate.shortage(costs, free_memory(), data_size.memory_bytes(experiment.data, device)):
        plain("\n".join(textwrap.wrap(f"Warning: {short}", COLUMNS)))


def expected(cost: Estimate) -> str:
    """The time and the memory of an estimate in a sentence."""
    stages = ", ".join(f"{stage.name} {duration(stage.seconds)}" for stage in cost.stages)
    total = cost.together
    text = f"Estimated for this machine: {duration(total.seconds)} ({stages}) and {size(total.memory)} of memory."
    if cost.speed is not None:
        text = f"{text} {cost.speed.disturbed()}".rstrip()
    return "\n".join(textwrap.wrap(text, COLUMNS))


def reasons(request: Request) -> list[str]:
    """The settings chosen for the data, or those taken from a preset of other data, in lines of at most 80 columns."""
    if request.proposal is not None:
        rows = request.proposal.chosen_flags(request.experiment)
        return [
            "Chosen for these data; each flag can be set to another value:",
            *(line for row in rows for line in chosen(*row)),
        ]
    base = request.base
    if base is None or request.changes.data is None or request.changes.data == base.data.source:
        return []
    experiment = request.experiment
    text = f"method {experiment.method.name}, network {experiment.model}, ipc {experiment.ipc} and all other numbers"
    text = f"From the preset {base.name}: {text}"
    class_count = base.data.first_classes or len(base.data.classes or ())
    if class_count and not experiment.data.first_classes and not experiment.data.classes:
        text += f"; not its choice of {class_count} classes of {base.data.source}"
    return textwrap.wrap(f"{text}.", COLUMNS)


def described(experiment: Experiment, show: Callable[[str], object]) -> DatasetSize:
    """The size of the data, after showing their description. Data sets known by name are not read."""
    description = estimate.read_for_size(experiment.data, experiment.ipc)
    if description is not None:
        show(description.text())
        return estimate.size_of(description)
    data_size = estimate.dataset_size(experiment)
    show(f"Data: {experiment.data.source}, known by name; not read for an estimate")
    counts = f"about {data_size.train:,} training, {data_size.test:,} test; {shape_text(data_size.shape)}"
    show("\n".join([*item("images", counts), *item("classes", str(data_size.classes))]))
    return data_size


def only_estimate(request: Request) -> bool:
    """For --dry-run, print the settings and the estimated cost. Returns whether it is a dry run."""
    experiment, as_json = request.experiment, request.changes.as_json
    if as_json and not request.dry_run:
        raise InputError("--json shows what a run would cost; add --dry-run, or leave it out.")
    if not request.dry_run:
        return False
    check_device(experiment.device)
    check_numbers(experiment)
    check_classes(experiment.data)
    state = State.of(request) if check_places(request) else None
    show = {True: lambda text: None, False: print}[as_json]
    with using(experiment.engine), computing_with(threads_of(request)):
        data_size = described(experiment, show)
        check_size(experiment, data_size)
        check_slots(data_size.shape, experiment.data.whiten, experiment.distill)
        for line in reasons(request):
            show(line)
        cost = estimate.estimate(experiment, data_size, request.skipped_stages)
        device_text = describe_device(experiment.device, data_size.shape, data_size.classes, experiment.model)
    if as_json:
        print(json.dumps(as_numbers(request, cost, state), indent=2))
        return True
    if cost.speed is not None and (disturbed := cost.speed.disturbed()):
        plain(disturbed)
    if short := estimate.shortage(cost, free_memory()):
        plain("\n".join(textwrap.wrap(f"Warning: {short}", COLUMNS)))
    for line in closing(request, data_size, cost, device_text, state):
        print(line)
    return True


def check_places(request: Request) -> bool:
    """Whether the folder of a run can be used. Raises InputError for an invalid one, one that holds another run, mirror
    or cluster, as the run does; only warns of a folder that the user did not type."""
    changes, fits = request.changes, True
    if getattr(changes, "seeds", None):
        fits = accepts_folder(lambda: check_out(request.out), changes.out is not None)
    elif not isinstance(changes, ExpertChanges):
        fits = accepts_folder(lambda: check_continued(request.experiment, request.out), changes.out is not None)
    mirror, cluster = getattr(changes, "mirror", None), getattr(changes, "cluster", None)
    if mirror is not None:
        mirror_address(mirror)
    if cluster is not None:
        check_address(cluster)
    return fits


def as_numbers(request: Request, cost: Estimate, state: State | None) -> dict[str, Any]:
    """The settings and the estimated costs, ready for JSON."""
    stages = [asdict(stage) | {"parts": dict(stage.parts)} for stage in (*cost.stages, cost.together)]
    device = settled_device(request.experiment.device)
    done = None
    if state is not None:
        done = asdict(state) | {"seconds_left": state.seconds_left(cost)}
    settings = request.experiment.to_json()
    return {"settings": settings, "device": device, "stages": stages, "done": done, "out": str(request.place)}


@dataclass(frozen=True)
class State:
    """How much of a run is done: epochs of its experts, outer steps, and its evaluation."""

    epochs: int
    of_epochs: int
    steps: int
    of_steps: int
    evaluated: bool

    @classmethod
    def of(cls, request: Request) -> Self | None:
        """The state of the run that the request continues; None for one that begins."""
        view, experiment, epochs = LiveRun.of(request.out), request.experiment, 0
        if not view.config or isinstance(request.changes, ExpertChanges):
            return None
        of_epochs = 0
        if experiment.method.expert is not None:
            of_epochs = experiment.experts.count * expert_epochs(experiment)
        if view.expert_progress is not None:
            epochs = min(view.expert_progress.epochs, of_epochs)
        steps = max((int(line["iteration"]) + 1 for line in view.metrics), default=0)
        evaluated = view.finished and view.dir.scores.exists()
        return cls(epochs, of_epochs, steps, experiment.distill.iterations, evaluated)

    @property
    def text(self) -> str:
        """The state in words."""
        experts = f"{self.epochs:,} of {self.of_epochs:,} epochs of experts, "
        evaluated = ", evaluated" * self.evaluated
        return f"{experts * (self.of_epochs > 0)}{self.steps:,} of {self.of_steps:,} outer steps{evaluated}"

    def seconds_left(self, cost: Estimate) -> float:
        """The part of the estimated seconds that is not done."""
        shares = [float(not self.evaluated), 1 - self.steps / self.of_steps]
        if self.of_epochs:
            shares.append(1 - self.epochs / self.of_epochs)
        # A run ends with evaluation, distillation and, for a method that has them, experts. What precedes these, the
        # fit of a whitening, is done by the time a folder holds anything.
        pairs = zip(shares[cost.skipped :], reversed(cost.stages), strict=False)
        return sum(share * stage.seconds for share, stage in pairs)


def closing(
    request: Request, data_size: DatasetSize, cost: Estimate, device_text: str, state: State | None
) -> list[str]:
    """The last lines of a dry run, at most eleven of 80 columns: settings, data, time, memory and disk, and what of it
    is done where the folder holds a part of the run."""
    experiment = request.experiment
    images = experiment.ipc * data_size.classes
    summary = f"{experiment.name}: {experiment.method.name}, {experiment.model}, {images:,} images"
    summary += f" ({experiment.ipc} per class)"
    data = f"{experiment.data.source}: {data_size.train:,} training and {data_size.test:,} test images"
    data += f", whiten {experiment.data.whiten}"
    rows = [("What", summary), ("On", data), ("Where", device_text.removeprefix("Device: "))]
    rows += estimate.summary(cost, getattr(request.changes, "seeds", None) or 1)
    if state is not None:
        rows.append(("Done", f"{state.text}; {duration(state.seconds_left(cost))} left"))
    rows.append(("Goes to", request.output_text))
    return ["", *lined_up(rows)]


def lined_up(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Names and texts as lines of at most 80 columns."""
    return [shortened(f"{name + ':':<14}{text}") for name, text in rows]


def shortened(line: str) -> str:
    """The line, cut off at 80 columns with …"""
    if len(line) <= COLUMNS:
        return line
    return line[: COLUMNS - 1] + "…"


demo = PresetCommand(
    "demo",
    run_preset,
    "Distil scikit-learn's digits to one image per class, and evaluate the result.",
    kind=Changes,
    preset=lambda changes, remaining: "digits-ipc1",
    folder="demo",
    prog="astdistill {verb}",
)
run = PresetCommand("run", run_preset, f"Train experts, distil, evaluate and write a report. {FIRST}", kind=RunChanges)
experts = PresetCommand(
    "experts",
    train,
    f"Train the experts of a preset; show accuracy and step length per epoch. {FIRST}",
    kind=ExpertChanges,
    reads=Reads(never=("seed", "distill", "evaluation")),
)
distill = PresetCommand(
    "distill",
    distil,
    f"Train missing experts and distil, without evaluation. {FIRST}",
    kind=ClusterChanges,
    reads=Reads(never=("evaluation",)),
)
