"""What each verb of the command line does: parse, call the library, show."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from ..autodiff.dispatch import using
from ..evaluation.scores import Scores, table
from ..experiment import cost as estimate
from ..experiment.config import Experiment, check_numbers, load_data
from ..experiment.pipeline import distill_experiment, followed, obtain_experts, prepare, run_experiment
from ..report.figures import epoch_table, quality_table
from ..report.page.page import renew_page
from ..runtime.devices import check_device
from ..runtime.errors import InputError
from ..runtime.progress import be_quiet
from ..runtime.run_dir import RunDir
from ..runtime.tables import terminal
from . import ablation
from .options import Request, parse


def demo(words: list[str]) -> None:
    """AST on digits: one image per class."""
    _run(parse("demo", words, default="digits-ipc1", first="scikit-learn's digits, one image per class, evaluated."))


def run(words: list[str]) -> None:
    """A preset from data to scores, or the ablation of one."""
    if words[:1] == ["ablation"]:
        ablation.command(words[1:])
    else:
        _run(parse("run", words))


def experts(words: list[str]) -> None:
    """The experts of a preset, and their quality."""
    request = parse("experts", words)
    if request.experiment.method.expert is None:
        raise InputError(
            f"Method '{request.experiment.method.name}' trains no experts; distil at once with: astdistill run "
            f"{request.experiment.name}"
            f" --method {request.experiment.method.name}"
        )
    if _only_estimate(request):
        return
    check_device(request.experiment.device)
    check_numbers(request.experiment)
    dataset = load_data(request.experiment)
    with followed(request.experiment, request.experiment.experts.store, request.log) as recorder:
        store = obtain_experts(request.experiment, dataset, recorder)
    console = Console()
    console.print(epoch_table(request.experiment.method.name, store.curves()))
    console.print(quality_table({request.experiment.method.name: store.curves()}))
    figure = store.folder / "quality.png"
    console.print(f"Experts: {store.folder}" + (f"\nFigure:  {figure}" if figure.exists() else ""), highlight=False)


def distill(words: list[str]) -> None:
    """A distilled set, without its evaluation."""
    request = parse("distill", words)
    if _only_estimate(request):
        return
    check_device(request.experiment.device)
    dataset = prepare(request.experiment, request.out)
    with followed(request.experiment, request.out, request.log) as recorder:
        distill_experiment(request.experiment, dataset, request.out, recorder)
    shown = renew_page(request.out) or RunDir(request.out).images
    Console().print(f"Look at:  {shown}\nNext:     astdistill evaluate {request.out}", highlight=False)


def evaluate(words: list[str]) -> None:
    """Scores of a distilled set; the page of its run shows them too."""
    from .evaluate import evaluate as scored

    run = RunDir(scored(words)).home()
    page = renew_page(run.folder) if run else None
    if page:
        Console().print(f"Look at:   {page}", highlight=False)


def compare(words: list[str]) -> None:
    """Finished runs side by side."""
    from .compare import compare as shown

    shown(words)


def textures(words: list[str]) -> None:
    """Pictures of distilled textures that can be tiled."""
    from .report import textures as written

    written(words)


def watch(words: list[str]) -> None:
    """A run, followed from another terminal."""
    from .watch import watch as follow

    follow(words)


def report(words: list[str]) -> None:
    """One or several runs as a page."""
    from .report import report as shown

    shown(words)


def doctor(words: list[str]) -> int:
    """What this machine has, and whether a miniature distillation works on it."""
    from .doctor import doctor as examined

    return examined(words)


def presets(words: list[str]) -> None:
    """The presets, with their published figures and their cost on this machine."""
    from .presets import presets as listed

    listed(words)


def import_buffers(words: list[str]) -> None:
    """A store, from the experts of another code base."""
    from .interop import import_buffers as imported

    imported(words)


def import_set(words: list[str]) -> None:
    """A run folder, from a set of another code base."""
    from .interop import import_set as imported

    imported(words)


def export(words: list[str]) -> None:
    """A distilled set in another format."""
    from .interop import export as exported

    exported(words)


def _run(request: Request) -> None:
    if _only_estimate(request):
        return
    check_device(request.experiment.device)
    scores = run_experiment(request.experiment, request.out, request.log)
    _show(scores, request.out, request.experiment)


def _show(scores: Scores, out: Path, experiment: Experiment) -> None:
    console = Console()
    console.print(terminal(table(scores)))
    if experiment.published.accuracy is not None:
        console.print(
            f"Published for {experiment.name}: {experiment.published.accuracy} % ({experiment.published.source}).",
            highlight=False,
        )
    run = RunDir(out)
    for path in (run.page, run.images):
        if path.exists():
            console.print(f"Look at:   {path}", highlight=False)
    console.print(f"Numbers:   {run.scores}", highlight=False)


def _only_estimate(request: Request) -> bool:
    """Print what would be run and what it would cost, if only that was asked for."""
    be_quiet(request.quiet)
    if not request.dry_run:
        return False
    check_device(request.experiment.device)
    check_numbers(request.experiment)
    with using(request.experiment.engine):
        found = estimate.estimate(request.experiment)
    print(json.dumps(request.experiment.to_json(), indent=2))
    Console().print(estimate.table(request.experiment, found))
    Console().print(f"No run was written. Without --dry-run this goes to {request.out}.", highlight=False)
    return True
