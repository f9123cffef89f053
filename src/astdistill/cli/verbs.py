"""The verbs that start from a preset: read, call the library, show."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..autodiff.dispatch import on_cluster, using
from ..data.description import COLUMNS, Description, item, shape_text
from ..distillation.settings import check_slots
from ..evaluation.scores import Scores, table, taught_table
from ..experiment import cost as estimate
from ..experiment.config import Experiment, check_numbers, load_data
from ..experiment.cost import DatasetSize, Estimate
from ..experiment.pipeline import distill_experiment, obtain_experts, prepare, run_experiment, tell_where, tracked
from ..experiment.work import Costs, where_text
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
from ..runtime.parallel import limited, own_threads, threads_beside_others, why_fewer
from ..runtime.provenance import machine
from ..runtime.run_dir import RunDir
from ..runtime.status import duration, size
from ..runtime.tables import terminal
from ..runtime.terminal import Terminal
from ..runtime.text import many
from .checks import check_classes, check_size
from .data import chosen, plain, tell
from .options import Changes, ClusterChanges, ExpertChanges, PresetCommand, Request, RunChanges
from .sweep import run_seeds

FIRST = (
    "PRESET is a benchmark setting (list: astdistill presets); without it, settings are chosen for --data. "
    "--data, --method, --init, --part, --without and --protocol change the preset before other flags are read."
)


def run_preset(request: Request) -> int:
    """Everything from data to scores, and what is to be looked at."""
    if only_estimate(request):
        return 0
    check_device(request.experiment.device)
    mirror = getattr(request.changes, "mirror", None)
    if seeds := getattr(request.changes, "seeds", None):
        if mirror is not None:
            raise InputError(f"--mirror {mirror} copies one run, not {seeds}; leave out --mirror or --seeds.")
        with placed(request):
            return run_seeds(request, seeds, teller(request))
    check_folder(request.out, "--out")
    finished = LiveRun.of(request.out).finished and RunDir(request.out).scores.exists()
    with mirrored(request.out, mirror), computing_with(threads_of(request)), placed(request):
        scores = run_experiment(request.experiment, request.out, request.log, teller(request))
    if finished and not progress.is_quiet():
        plain(f"{request.out} was finished before; nothing is computed again that is there.")
    _show(scores, request.out, request.experiment)
    return 0


def train(request: Request) -> None:
    """The experts of a preset, and their quality."""
    changes, experiment = request.changes, request.experiment
    assert isinstance(changes, ExpertChanges)
    if experiment.method.expert is None:
        raise InputError(
            f"Method '{experiment.method.name}' trains no experts; "
            f"distil at once with: {request.words('run')} --method {experiment.method.name}"
        )
    experts_of_shard(changes.shard, experiment.experts.count)
    if only_estimate(request):
        return
    check_device(experiment.device)
    check_numbers(experiment)
    with computing_with(threads_of(request, follow=False)), placed(request):
        dataset = load_data(experiment)
        description = Description.of(dataset, experiment.ipc)
        tell_where(experiment, description)
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
def placed(request: Request) -> Iterator[None]:
    """Inside the block, experts, evaluated networks and the trajectories of a step are computed where the flags say: on
    a cluster, which is asked now, before data are read, or here."""
    changes, experiment = request.changes, request.experiment
    if not isinstance(changes, ClusterChanges):
        yield
        return
    with using(experiment.engine), on_cluster(changes.cluster, changes.threads, changes.allow_mixed):
        if (there := used()) is not None:
            there.connect(gpu=settled_device(experiment.device) != "cpu")
        yield


def distil(request: Request) -> None:
    """A distilled set, without its evaluation."""
    if only_estimate(request):
        return
    check_device(request.experiment.device)
    with computing_with(threads_of(request)), placed(request):
        dataset = prepare(request.experiment, request.out, teller(request))
        with RunDir(request.out).writing(), tracked(request.experiment, request.out, request.log) as recorder:
            distill_experiment(request.experiment, dataset, request.out, recorder)
    shown = renew_page(request.out) or RunDir(request.out).images
    Terminal().print(f"Look at:  {shown}\nNext:     astdistill evaluate {request.out}", highlight=False)


def _show(scores: Scores, out: Path, experiment: Experiment) -> None:
    console = Terminal()
    for shown in filter(None, (table(scores), taught_table(scores))):
        console.print(terminal(shown))
    published = experiment.published
    for word, figure in {"Published": published, "Best peer": published.peer}.items():
        if figure.accuracy is not None:
            console.print(f"{word} for {experiment.name}: {figure.accuracy} % ({figure.source}).", highlight=False)
    run = RunDir(out)
    for path in (run.page, run.images):
        if path.exists():
            console.print(f"Look at:   {path}", highlight=False)
    console.print(f"Numbers:   {run.scores}", highlight=False)


def threads_of(request: Request, follow: bool = True) -> Threads:
    """Threads of the CPU: as many as were asked for, or as the run was begun with on this kind of processor, because
    the last bits of its numbers depend on them.

    In a new run, workers divide one for each core that this process may use, whatever else runs. A step in this process
    takes as many on a CPU as other processes leave cores free when it begins (`threads_beside_others`), unless the
    command does not `follow` them: it computes no step of its own, as where several runs are jobs of workers, or saves
    no number of threads.
    """
    if (asked := request.changes.threads) is not None:
        return Threads(asked, asked)
    usual, follow = own_threads(), follow and settled_device(request.experiment.device) == "cpu"
    follow = follow and not getattr(request.changes, "seeds", None)
    begun = RunDir(request.out).threads(machine()["processor"])
    if begun is None and follow:
        beside = threads_beside_others(usual)
        if why := why_fewer(beside):
            progress.tell(why)
        return beside
    if begun is None:
        return Threads(usual, usual)
    if not follow:
        begun = Threads(begun.divided, begun.divided)
    if begun != (usual, usual) and settled_device(request.experiment.device) == "cpu":
        progress.tell(
            f"This run was begun with {many(begun.step, 'thread')} and goes on with them, so that its numbers stay "
            f"the same to the last bit; this process may use {usual}, and --threads {usual} takes them."
        )
    return begun


def computing_with(threads: Threads) -> AbstractContextManager[None]:
    """Inside the block, this process computes with these threads, and workers divide theirs."""
    return limited(threads.step, threads.divided)


def teller(request: Request) -> Callable[[Description], None]:
    """Says what was read, which settings were chosen for it, and, where no preset says so, what the run will take."""

    def told(description: Description) -> None:
        experiment = request.experiment
        tell(description)
        _warn_of_memory(experiment, estimate.size_of(description))
        if progress.is_quiet():
            return
        for line in reasons(request):
            plain(line)
        if request.proposal is not None:
            with using(request.experiment.engine):
                plain(expected(estimate.estimate(request.experiment, estimate.size_of(description))))

    return told


def _warn_of_memory(experiment: Experiment, known: DatasetSize) -> None:
    """Say what will not fit into memory, before it is begun; the images are there already."""
    device = settled_device(experiment.device)
    if device != "cpu" or experiment.ipc * known.classes > known.train:  # which the run refuses
        return
    with using(experiment.engine):
        costs = estimate.counted(experiment, known, Costs(device))
    if short := estimate.shortage(costs, free_memory(), known.held(experiment.data, device)):
        plain("\n".join(textwrap.wrap(f"Warning: {short}", COLUMNS)))


def expected(cost: Estimate) -> str:
    """The time of an estimate in a sentence."""
    stages = ", ".join(f"{stage.name} {duration(stage.seconds)}" for stage in cost.stages)
    whole = cost.together
    words = f"Estimated for this machine: {duration(whole.seconds)} ({stages}) and {size(whole.memory)} of memory."
    if cost.speed is not None:
        words = f"{words} {cost.speed.disturbed()}".rstrip()
    return "\n".join(textwrap.wrap(words, COLUMNS))


def reasons(request: Request) -> list[str]:
    """What was chosen for the data, or what is taken from a preset of other data, in lines of at most 80 columns."""
    if request.proposal is not None:
        rows = request.proposal.told(request.experiment)
        return [
            "Chosen for these data; each flag can be set to another value:",
            *(line for row in rows for line in chosen(*row)),
        ]
    base = request.base
    if base is None or request.changes.data is None or request.changes.data == base.data.source:
        return []
    experiment = request.experiment
    words = f"method {experiment.method.name}, network {experiment.model}, ipc {experiment.ipc} and all other numbers"
    words = f"From the preset {base.name}: {words}"
    left = base.data.first_classes or len(base.data.classes or ())
    if left and not experiment.data.first_classes and not experiment.data.classes:
        words += f"; not its choice of {left} classes of {base.data.source}"
    return textwrap.wrap(f"{words}.", COLUMNS)


def described(experiment: Experiment, show: Callable[[str], object]) -> DatasetSize:
    """The size of the data; what is known of them is shown. Data with a name of their own are not looked at."""
    description = estimate.read_for_size(experiment.data, experiment.ipc)
    if description is not None:
        show(description.text())
        return estimate.size_of(description)
    known = estimate.dataset_size(experiment)
    show(f"Data: {experiment.data.source}, known by name; not read for an estimate")
    counts = f"about {known.train:,} training, {known.test:,} test; {shape_text(known.shape)}"
    show("\n".join([*item("images", counts), *item("classes", str(known.classes))]))
    return known


def only_estimate(request: Request) -> bool:
    """Print what would be run and what it would cost, if only that was asked for."""
    experiment, as_json = request.experiment, request.changes.as_json
    if as_json and not request.dry_run:
        raise InputError("--json shows what a run would cost; add --dry-run, or leave it out.")
    if not request.dry_run:
        return False
    check_device(experiment.device)
    check_numbers(experiment)
    check_classes(experiment.data)
    check_places(request)
    show = {True: lambda text: None, False: print}[as_json]
    with using(experiment.engine), computing_with(threads_of(request)):
        known = described(experiment, show)
        check_size(experiment, known)
        check_slots(known.shape, experiment.data.whiten, experiment.distill)
        for line in reasons(request):
            show(line)
        cost = estimate.estimate(experiment, known)
        where = where_text(experiment.device, known.shape, known.classes, experiment.model)
    if as_json:
        print(json.dumps(as_numbers(request, cost), indent=2))
        return True
    if cost.speed is not None and (disturbed := cost.speed.disturbed()):
        plain(disturbed)
    if short := estimate.shortage(cost, free_memory()):
        plain("\n".join(textwrap.wrap(f"Warning: {short}", COLUMNS)))
    for line in closing(request, known, cost, where):
        print(line)
    return True


def check_places(request: Request) -> None:
    """Raise InputError for a folder, a mirror or a cluster whose name is none, as the run does."""
    changes = request.changes
    if not isinstance(changes, ExpertChanges):
        check_folder(request.out, "--out")
    mirror, cluster = getattr(changes, "mirror", None), getattr(changes, "cluster", None)
    if mirror is not None:
        mirror_address(mirror)
    if cluster is not None:
        check_address(cluster)


def as_numbers(request: Request, cost: Estimate) -> dict[str, Any]:
    """Settings and costs of what would be run, ready for JSON."""
    stages = [asdict(stage) | {"parts": dict(stage.parts)} for stage in (*cost.stages, cost.together)]
    device = settled_device(request.experiment.device)
    return {"settings": request.experiment.to_json(), "device": device, "stages": stages, "out": str(request.out)}


def closing(request: Request, known: DatasetSize, cost: Estimate, where: str) -> list[str]:
    """The last ten lines of a dry run, at the most, of 80 columns: what, on what data, how long, how much memory and
    disk."""
    experiment = request.experiment
    images = experiment.ipc * known.classes
    what = f"{experiment.name}: {experiment.method.name}, {experiment.model}, {images:,} images"
    what += f" ({experiment.ipc} per class)"
    data = f"{experiment.data.source}: {known.train:,} training and {known.test:,} test images"
    data += f", whiten {experiment.data.whiten}"
    rows = [("What", what), ("On", data), ("Where", where.removeprefix("Device: "))]
    rows += estimate.summary(cost, getattr(request.changes, "seeds", None) or 1)
    rows.append(("Goes to", request.place))
    return ["", *lined_up(rows)]


def lined_up(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Names and texts as lines of 80 columns."""
    return [shortened(f"{name + ':':<14}{text}") for name, text in rows]


def shortened(line: str) -> str:
    """The line in 80 columns; what does not fit ends in …"""
    if len(line) <= COLUMNS:
        return line
    return line[: COLUMNS - 1] + "…"


demo = PresetCommand(
    "demo",
    run_preset,
    "Distil scikit-learn's digits to one image per class, and evaluate the result.",
    kind=Changes,
    preset=lambda changes, rest: "digits-ipc1",
    folder="demo",
    prog="astdistill {verb}",
)
run = PresetCommand("run", run_preset, f"Train experts, distil, evaluate and write a report. {FIRST}", kind=RunChanges)
experts = PresetCommand(
    "experts",
    train,
    f"Train the experts of a preset; show accuracy and step length per epoch. {FIRST}",
    kind=ExpertChanges,
)
distill = PresetCommand(
    "distill", distil, f"Train missing experts and distil, without evaluation. {FIRST}", kind=ClusterChanges
)
