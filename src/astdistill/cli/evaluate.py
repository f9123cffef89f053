"""`astdistill evaluate`: from a distilled file to its scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import ValidationError
from rich.console import Console

from ..autodiff.dispatch import EngineName, using
from ..data.loading import load_dataset
from ..data.synthetic import load
from ..evaluation.continual import check_steps, continual, continual_table
from ..evaluation.dd_ranking import RandomLabels, check_gamma, rank, ranking_table
from ..evaluation.per_class import by_class, check_confusion, confusions
from ..evaluation.protocol import EvalRecipe, protocol
from ..evaluation.rate_search import rates_table, search_rates
from ..evaluation.runner import evaluate_all
from ..evaluation.scores import table
from ..runtime.devices import check_device
from ..runtime.errors import refused
from ..runtime.files import check_folder
from ..runtime.progress import be_quiet
from ..runtime.run_dir import RunDir
from ..runtime.tables import Tabulation, terminal
from .flags import call


def evaluate(words: list[str]) -> Path:
    """Scores of a distilled set; the folder that they lie in."""
    return call(_evaluate, words, "astdistill evaluate")


def _evaluate(
    path: Annotated[Path, tyro.conf.Positional],
    /,
    protocol_name: Annotated[Literal["mtt", "ast-released", "datm-released"], tyro.conf.arg(name="protocol")] = "mtt",
    epochs: int | None = None,
    full_epochs: int | None = None,
    lr: float | Literal["learned", "search"] = "learned",
    networks: int = 5,
    architectures: tuple[str, ...] = (),
    baselines: tuple[Literal["random", "kmeans", "full"], ...] = ("random", "kmeans", "full"),
    data: str | None = None,
    device: str = "cpu",
    workers: int | None = None,
    engine: EngineName = "auto",
    seed: int = 0,
    out: Path | None = None,
    per_class: bool = False,
    confusion: bool = False,
    ranking: bool = False,
    gamma: float = 0.5,
    random_labels: RandomLabels = "same",
    continual_steps: Annotated[int | None, tyro.conf.arg(name="continual")] = None,
    quiet: bool = False,
) -> Path:
    """Train fresh networks on a distilled set alone and test them.

    Args:
        path: A run folder, or the synthetic.safetensors of one; nothing else of the run is needed.
        protocol_name: Evaluation protocol.
        epochs: Training epochs, where they are to differ from the protocol's.
        full_epochs: Training epochs of the full-data baseline, where they are to differ from the others'.
        lr: Step size: learned takes the set's own (0.01 for real images), search the best multiple of it on held-out
            training images, a number is taken for every row.
        networks: Freshly initialised networks for each row.
        architectures: Networks to train, or pools of them (S, M, W, D, A, P, N); none means the student's own.
        baselines: Real images evaluated alike.
        data: Where the data lies now, if elsewhere than when the set was made.
        device: cpu or cuda.
        workers: Networks trained side by side on a CPU; none means as many as there are cores.
        engine: What computes derivatives; auto takes the fastest that can.
        seed: Every draw depends on it.
        out: Folder of scores.json; none means a folder beside the set named after file, protocol, epochs and
            architectures.
        per_class: Show the accuracy of each class too.
        confusion: Show which classes are taken for which, too.
        ranking: DD-Ranking's label-robust and augmentation-robust scores too; trains what they need besides.
        gamma: Share of training with augmentation in the augmentation-robust score.
        random_labels: Labels of the random images that the ranking compares a soft-labelled set with: the same soft
            labels, as on the leaderboard, or their own hard ones.
        continual_steps: Class-incremental learning too: classes arrive in so many steps, 5 or 10 in the literature.
        quiet: No progress.
    """
    be_quiet(quiet)
    check_device(device)
    check_gamma(gamma)
    synthetic = load(path)
    recipe = _recipe(
        protocol(protocol_name),
        {"epochs": epochs, "full_epochs": full_epochs, "lr": lr if isinstance(lr, float) else None},
    )
    config = synthetic.data if data is None else synthetic.data.replace(source=data)
    dataset = load_dataset(config, device=device)
    if not synthetic.preprocessing.whole:
        synthetic = synthetic.completed(dataset.preprocessing)
    if confusion:
        check_confusion(dataset.classes)
    if continual_steps is not None:
        check_steps(continual_steps, dataset)
    rate = [] if lr == "learned" else [f"lr-{lr}"]
    run = RunDir.around(path)
    # last.safetensors is not a run's result
    other = [path.stem] if path.is_file() and path != run.synthetic else []
    words = [*other, protocol_name, f"{recipe.epochs}-epochs", *rate, *architectures]
    folder = out or run.evaluation(*words).folder
    check_folder(folder, "--out")
    models, console = architectures or None, Console()

    def show(shown: Tabulation) -> None:
        console.print(terminal(shown))
        console.print()

    with using(engine):
        rates = (
            search_rates(synthetic, dataset, recipe, models, networks, folder, seed=seed, workers=workers)
            if lr == "search"
            else {}
        )
        if rates:
            show(rates_table(rates, recipe.augmented(synthetic.augmentation)))
        scores = evaluate_all(
            synthetic, dataset, recipe, models, networks, baselines, folder, seed=seed, rates=rates, workers=workers
        )
        for part in (table, *([by_class] if per_class else []), *([confusions] if confusion else [])):
            show(part(scores))
        if ranking:
            ranked = rank(
                synthetic,
                dataset,
                recipe,
                models,
                networks,
                folder,
                gamma=gamma,
                random_labels=random_labels,
                seed=seed,
                rates=rates,
                workers=workers,
            )
            show(ranking_table(ranked))
        if (steps := continual_steps) is not None:
            arriving = continual(
                synthetic,
                dataset,
                steps,
                recipe,
                models,
                networks,
                baselines,
                folder,
                seed=seed,
                rates=rates,
                workers=workers,
            )
            show(continual_table(arriving))
    console.print(f"Numbers:   {RunDir(folder).scores}", highlight=False)
    return folder


def _recipe(recipe: EvalRecipe, typed: dict[str, float | None]) -> EvalRecipe:
    """The protocol with the values that were typed. Raises InputError for one that is out of range."""
    try:
        return recipe.replace(**{name: value for name, value in typed.items() if value is not None})
    except ValidationError as error:
        raise refused(error, prog="astdistill evaluate") from error
