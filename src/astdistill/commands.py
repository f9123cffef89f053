"""What each verb of the command line does: parse, call the library, show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from . import estimate
from .data import load_dataset
from .engines import EngineName, using
from .errors import InputError
from .evaluation import Scores, evaluate_all, protocol, table
from .experiment import Experiment, check_numbers, load_data, obtain_experts, obtain_synthetic, prepare, run_experiment
from .options import Request, parse
from .presets import PRESETS
from .progress import be_quiet
from .report import epoch_table, quality_table
from .synthetic import load


def demo(words: list[str]) -> None:
    """AST on digits: one image per class."""
    _run(parse("demo", words, default="digits-ipc1"))


def run(words: list[str]) -> None:
    """A preset from data to scores."""
    _run(parse("run", words))


def experts(words: list[str]) -> None:
    """The experts of a preset, and their quality."""
    request = parse("experts", words)
    if _only_estimate(request):
        return
    _check_device(request.experiment.device)
    check_numbers(request.experiment)
    store = obtain_experts(request.experiment, load_data(request.experiment))
    console = Console()
    console.print(epoch_table(request.experiment.method.name, store.curves()))
    console.print(quality_table({request.experiment.method.name: store.curves()}))
    console.print(f"Experts: {store.folder}\nFigure:  {store.folder / 'quality.png'}", highlight=False)


def distill(words: list[str]) -> None:
    """A distilled set, without its evaluation."""
    request = parse("distill", words)
    if _only_estimate(request):
        return
    _check_device(request.experiment.device)
    dataset = prepare(request.experiment, request.out)
    obtain_synthetic(request.experiment, dataset, obtain_experts(request.experiment, dataset), request.out)
    Console().print(f"Pictures: {request.out / 'images.png'}\nNext:     astdistill evaluate {request.out}", highlight=False)


def evaluate(words: list[str]) -> None:
    """Scores of a distilled set."""
    tyro.cli(_evaluate, prog="astdistill evaluate", args=words)


def presets(words: list[str]) -> None:
    """The list of presets."""
    if words and words[0] not in ("-h", "--help"):
        raise InputError(f"astdistill presets takes no further words, but '{words[0]}' was given; run one with: astdistill run PRESET")
    shown = Table(
        caption="Published: final epoch, test accuracy in %; hard labels, or datm's learned ones; - where there is none.",
        caption_justify="left",
    )
    for column in ("preset", "data", "whiten", "ipc", "method", "T", "M", "start <", "published"):
        shown.add_column(column, no_wrap=column == "preset")
    for name, cell in PRESETS.items():
        settings = cell.distill
        numbers = (
            cell.ipc,
            cell.method.name,
            settings.inner_steps,
            settings.matched_epochs,
            settings.max_start_epoch,
            cell.published.accuracy or "-",
        )
        shown.add_row(name, cell.data.source, cell.data.whiten, *map(str, numbers))
    Console().print(shown)


def bench(words: list[str]) -> None:
    """Time and memory, beside the published way and the limit of this machine."""
    from .bench.command import bench as measured

    measured(words)


def _run(request: Request) -> None:
    if _only_estimate(request):
        return
    _check_device(request.experiment.device)
    scores = run_experiment(request.experiment, request.out)
    _show(scores, request.out, request.experiment)


def _evaluate(
    path: Annotated[Path, tyro.conf.Positional],
    /,
    protocol_name: Annotated[Literal["mtt", "ast-released"], tyro.conf.arg(name="protocol")] = "mtt",
    epochs: int | None = None,
    full_epochs: int | None = None,
    networks: int = 5,
    architectures: tuple[str, ...] = (),
    baselines: tuple[Literal["random", "kmeans", "full"], ...] = ("random", "kmeans", "full"),
    data: str | None = None,
    device: str = "cpu",
    workers: int | None = None,
    engine: EngineName = "auto",
    seed: int = 0,
    out: Path | None = None,
    quiet: bool = False,
) -> None:
    """Train fresh networks on a distilled set alone and test them.

    Args:
        path: A run folder, or the synthetic.safetensors of one; nothing else of the run is needed.
        protocol_name: Evaluation protocol.
        epochs: Training epochs, where they are to differ from the protocol's.
        full_epochs: Training epochs of the full-data baseline, where they are to differ from the others'.
        networks: Freshly initialised networks for each row.
        architectures: Networks to train, or pools of them (S, M, W, D, A, P, N); none means the student's own.
        baselines: Real images evaluated alike.
        data: Where the data lies now, if elsewhere than when the set was made.
        device: cpu or cuda.
        workers: Networks trained side by side on a CPU; none means as many as there are cores.
        engine: What computes derivatives; auto takes the fastest that can.
        seed: Every draw depends on it.
        out: Folder of scores.json; none means a folder beside the set named after protocol, epochs and architectures.
        quiet: No progress.
    """
    be_quiet(quiet)
    _check_device(device)
    synthetic = load(path)
    recipe = protocol(protocol_name).replace(full_epochs=full_epochs)
    recipe = recipe if epochs is None else recipe.replace(epochs=epochs)
    config = synthetic.data if data is None else synthetic.data.replace(source=data)
    dataset = load_dataset(config, device=device)
    words = [word.replace("/", "_").replace(":", "_") for word in ("evaluation", protocol_name, f"{recipe.epochs}-epochs", *architectures)]
    folder = out or (path if path.is_dir() else path.parent) / "-".join(words)
    with using(engine):
        scores = evaluate_all(synthetic, dataset, recipe, architectures or None, networks, baselines, folder, seed=seed, workers=workers)
    _show(scores, folder, None)


def _show(scores: Scores, out: Path, experiment: Experiment | None) -> None:
    console = Console()
    console.print(table(scores))
    if experiment is not None and experiment.published.accuracy is not None:
        console.print(
            f"Published for {experiment.name}: {experiment.published.accuracy} % ({experiment.published.source}).", highlight=False
        )
    if (out / "images.png").exists():
        console.print(f"Look at:   {out / 'images.png'}", highlight=False)
    console.print(f"Numbers:   {out / 'scores.json'}", highlight=False)


def _only_estimate(request: Request) -> bool:
    """Print what would be run and what it would cost, if only that was asked for."""
    be_quiet(request.quiet)
    if not request.dry_run:
        return False
    _check_device(request.experiment.device)
    check_numbers(request.experiment)
    with using(request.experiment.engine):
        stages = estimate.estimate(request.experiment)
    print(json.dumps(request.experiment.to_json(), indent=2))
    Console().print(estimate.table(request.experiment, stages))
    Console().print(f"No run was written. Without --dry-run this goes to {request.out}.", highlight=False)
    return True


def _check_device(device: str) -> None:
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"'{device}' is not a device; choose --device cpu or --device cuda.") from error
    if found.type not in ("cpu", "cuda"):
        raise InputError(f"--device {device} was asked for, but only cpu and cuda are supported; choose one of them.")
    count = torch.cuda.device_count() if found.type == "cuda" else 0
    if found.type == "cuda" and (found.index or 0) >= count:
        raise InputError(
            f"--device {device} was asked for, but torch sees {count} CUDA GPUs; choose --device cpu, or install a CUDA build of torch."
        )
