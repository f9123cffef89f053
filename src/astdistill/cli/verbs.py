"""The verbs that start from a preset: read, call the library, show."""

from __future__ import annotations

import json
from pathlib import Path

from ..autodiff.dispatch import using
from ..evaluation.scores import Scores, table
from ..experiment import cost as estimate
from ..experiment.config import Experiment, check_numbers, load_data
from ..experiment.pipeline import distill_experiment, obtain_experts, prepare, run_experiment, tracked
from ..report.figures import epoch_table, quality_table
from ..report.page.page import renew_page
from ..runtime.devices import check_device
from ..runtime.errors import InputError
from ..runtime.parallel import limited
from ..runtime.run_dir import RunDir
from ..runtime.tables import terminal
from ..runtime.terminal import Terminal
from .options import Changes, PresetCommand, Request

FIRST = (
    "The first word, PRESET, is listed by: astdistill presets. --data, --method, --init, --part, --without and "
    "--protocol change it before other flags are read."
)


def run_preset(request: Request) -> None:
    """Everything from data to scores, and what is to be looked at."""
    if only_estimate(request):
        return
    check_device(request.experiment.device)
    with limited(request.changes.threads):
        scores = run_experiment(request.experiment, request.out, request.log)
    _show(scores, request.out, request.experiment)


def train(request: Request) -> None:
    """The experts of a preset, and their quality."""
    experiment = request.experiment
    if experiment.method.expert is None:
        raise InputError(
            f"Method '{experiment.method.name}' trains no experts; "
            f"distil at once with: astdistill run {experiment.name} --method {experiment.method.name}"
        )
    if only_estimate(request):
        return
    check_device(experiment.device)
    check_numbers(experiment)
    with limited(request.changes.threads):
        dataset = load_data(experiment)
        with tracked(experiment, experiment.experts.store, request.log) as recorder:
            store = obtain_experts(experiment, dataset, recorder)
    console = Terminal()
    console.print(epoch_table(experiment.method.name, store.curves()))
    console.print(quality_table({experiment.method.name: store.curves()}))
    console.print(f"Experts: {store.folder}", highlight=False)
    figure = store.folder / "quality.png"
    if figure.exists():
        console.print(f"Figure:  {figure}", highlight=False)


def distil(request: Request) -> None:
    """A distilled set, without its evaluation."""
    if only_estimate(request):
        return
    check_device(request.experiment.device)
    with limited(request.changes.threads):
        dataset = prepare(request.experiment, request.out)
        with tracked(request.experiment, request.out, request.log) as recorder:
            distill_experiment(request.experiment, dataset, request.out, recorder)
    shown = renew_page(request.out) or RunDir(request.out).images
    Terminal().print(f"Look at:  {shown}\nNext:     astdistill evaluate {request.out}", highlight=False)


def _show(scores: Scores, out: Path, experiment: Experiment) -> None:
    console = Terminal()
    console.print(terminal(table(scores)))
    published = experiment.published
    for word, figure in {"Published": published, "Best peer": published.peer}.items():
        if figure.accuracy is not None:
            console.print(f"{word} for {experiment.name}: {figure.accuracy} % ({figure.source}).", highlight=False)
    run = RunDir(out)
    for path in (run.page, run.images):
        if path.exists():
            console.print(f"Look at:   {path}", highlight=False)
    console.print(f"Numbers:   {run.scores}", highlight=False)


def only_estimate(request: Request) -> bool:
    """Print what would be run and what it would cost, if only that was asked for."""
    if not request.dry_run:
        return False
    check_device(request.experiment.device)
    check_numbers(request.experiment)
    with using(request.experiment.engine), limited(request.changes.threads):
        cost = estimate.estimate(request.experiment)
    print(json.dumps(request.experiment.to_json(), indent=2))
    Terminal().print(estimate.table(request.experiment, cost))
    Terminal().print(f"No run was written. Without --dry-run this goes to {request.out}.", highlight=False)
    return True


demo = PresetCommand(
    "demo",
    run_preset,
    "scikit-learn's digits, one image per class, evaluated.",
    kind=Changes,
    preset=lambda changes, rest: "digits-ipc1",
    folder="demo",
    prog="astdistill {verb}",
)
run = PresetCommand("run", run_preset, f"A preset from data to scores. {FIRST}")
experts = PresetCommand("experts", train, f"Train the experts of a preset and show their quality. {FIRST}")
distill = PresetCommand("distill", distil, f"Distil a preset, without evaluation. {FIRST}")
