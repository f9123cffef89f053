"""One experiment as a value: data, experts, method, settings, evaluation; and the way through it, stage by stage."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from .data import DataConfig, Dataset, load_dataset
from .distillation import DistillSettings, check_data, check_settings, distill
from .engines import EngineName, using
from .errors import InputError
from .evaluation import MTT_PROTOCOL, EvalRecipe, Scores, architectures, check_names, evaluate_all
from .experts import TrajectoryStore, train_experts
from .methods import MTT, Method
from .models import FlatModel, build_model
from .records import Record
from .report import save_curves, save_grid, save_quality
from .run_folder import claim
from .runs import read_lines
from .synthetic import SyntheticSet


class ExpertSettings(Record):
    """Which experts, and where they are kept."""

    count: int = Field(default=100, ge=1)
    """Trained experts; those that the store already has are not trained again."""
    store: Path = Path("experts")
    """Folder that holds one store for each recipe."""
    seed: int = 0
    """Experts depend on this seed and their number alone, so that runs of other seeds can share them."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """How rows are stored; bfloat16 halves the disk."""


class EvaluationSettings(Record):
    """How the result is judged."""

    recipe: EvalRecipe = MTT_PROTOCOL
    networks: int = Field(default=5, ge=1)
    """Freshly initialised networks for each row of the table."""
    architectures: tuple[str, ...] = ()
    """Networks to train, or pools of them: S, M, W, D, A, P, N; none means the student's own."""
    baselines: tuple[Literal["random", "kmeans", "full"], ...] = ("random", "kmeans", "full")
    """Real images evaluated alike: random ones, K-means representatives, all of them."""


class Published(Record):
    """The figure that a preset is to be compared with."""

    accuracy: float | None = None
    """Test accuracy in percent, or nothing where no published figure is known."""
    source: str = ""


class Experiment(Record):
    """Everything that decides a result."""

    name: str
    data: DataConfig = DataConfig()
    model: str = "convnet-d3"
    """Student and expert network."""
    experts: ExpertSettings = ExpertSettings()
    method: Method = MTT
    ipc: int = Field(default=1, ge=1)
    """Synthetic images per class."""
    distill: DistillSettings = DistillSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    device: str = "cpu"
    """cpu, cuda, or cuda:N."""
    workers: int | None = Field(default=None, ge=1)
    """Experts and evaluated networks trained side by side on a CPU; none means as many as there are cores. Like the device, it changes
    results by no more than rounding: the threads are split among them."""
    engine: EngineName = "auto"
    """What computes derivatives: native (the ConvNet on a CPU), compiled, compiled-bfloat16, or eager; auto takes the fastest that can, or
    $ASTDISTILL_ENGINE. It changes results by no more than rounding, which a resumed run shows in its last bits."""
    seed: int = 0
    """Every draw of distillation and evaluation depends on it."""
    published: Published = Published()


def load_data(experiment: Experiment) -> Dataset:
    """The data set on the experiment's device."""
    return load_dataset(experiment.data, device=experiment.device)


def check_numbers(experiment: Experiment) -> None:
    """Raise InputError where settings contradict one another, whatever the data."""
    store = experiment.experts.store
    if store.exists() and not store.is_dir():
        raise InputError(f"--experts.store {store} is a file; name a folder.")
    check_settings(experiment.method, experiment.distill, experiment.method.expert.epochs)
    wanted = experiment.distill.max_experts
    if wanted is not None and wanted > experiment.experts.count:
        raise InputError(
            f"--distill.max-experts {wanted} is more than the {experiment.experts.count} experts of this run; lower it, or raise "
            f"--experts.count."
        )


def check_experiment(experiment: Experiment, dataset: Dataset) -> None:
    """Raise InputError where the parts do not fit: before experts are trained, and before anything is written."""
    check_numbers(experiment)
    check_data(dataset, experiment.method, experiment.distill, experiment.ipc)
    FlatModel(build_model(experiment.model, dataset.shape, len(dataset.classes)))
    check_names(architectures(experiment.evaluation.architectures, experiment.model, dataset.shape), dataset)


def obtain_experts(experiment: Experiment, dataset: Dataset) -> TrajectoryStore:
    """The experts, trained where they are missing, with the quality figure beside them."""
    wanted = experiment.experts
    with using(experiment.engine):
        store = train_experts(
            dataset,
            model=experiment.model,
            recipe=experiment.method.expert,
            count=wanted.count,
            store=wanted.store,
            seed=wanted.seed,
            dtype=wanted.dtype,
            workers=experiment.workers,
        )
    save_quality({experiment.method.name: store.curves()}, store.folder / "quality.png")
    return store


def obtain_synthetic(experiment: Experiment, dataset: Dataset, experts: TrajectoryStore, out: Path) -> SyntheticSet:
    """The distilled set, with its picture and curves beside it."""
    with using(experiment.engine):
        synthetic = distill(
            dataset, experts, method=experiment.method, ipc=experiment.ipc, settings=experiment.distill, out=out, seed=experiment.seed
        )
    save_grid(synthetic, out / "images.png")
    save_curves(read_lines(out / "metrics.jsonl"), out / "curves.png")
    return synthetic


def obtain_scores(experiment: Experiment, dataset: Dataset, synthetic: SyntheticSet, out: Path) -> Scores:
    """The scores of the set and of the baselines, resumed network by network."""
    wanted = experiment.evaluation
    with using(experiment.engine):
        return evaluate_all(
            synthetic,
            dataset,
            recipe=wanted.recipe,
            model=wanted.architectures or None,
            seeds=wanted.networks,
            baselines=wanted.baselines,
            out=out,
            seed=experiment.seed,
            workers=experiment.workers,
        )


def prepare(experiment: Experiment, out: Path) -> Dataset:
    """The data, once everything that can be checked has been, and `out` is this run's. Raises InputError with nothing written."""
    dataset = load_data(experiment)
    check_experiment(experiment, dataset)
    claim(experiment.to_json(), dataset.fingerprint, out, experiment.device)
    return dataset


def run_experiment(experiment: Experiment, out: Path) -> Scores:
    """Every stage in order; each resumes from what `out` and the expert store already hold."""
    dataset = prepare(experiment, out)
    experts = obtain_experts(experiment, dataset)
    synthetic = obtain_synthetic(experiment, dataset, experts, out)
    return obtain_scores(experiment, dataset, synthetic, out)
