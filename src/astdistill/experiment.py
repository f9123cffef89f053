"""One experiment as a value: data, experts, method, settings, evaluation; and the way through it, stage by stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from .data import DataConfig, Dataset, load_dataset
from .distillation import DistillSettings, check_settings, distill
from .errors import InputError
from .evaluation import MTT_PROTOCOL, EvalRecipe, Scores, evaluate_all
from .experts import TrajectoryStore, train_experts
from .methods import MTT, Method
from .models import FlatModel, build_model
from .records import Record
from .report import save_curves, save_grid, save_quality
from .runs import provenance, read_json, read_lines, write_json
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
    """Networks to train; none means the student's own."""
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
    seed: int = 0
    """Every draw of distillation and evaluation depends on it."""
    published: Published = Published()


FREE = (
    "data.source",
    "data.image_column",
    "data.label_column",
    "device",
    "distill.checkpoint_seconds",
    "distill.iterations",
    "distill.max_skips",
    "evaluation",
    "experts.store",
    "published",
)
"""What may change between two calls of one run. Other data or experts under the same names are found by their fingerprints later."""


def claim(experiment: Experiment, out: Path) -> None:
    """Write config.json and provenance.json of a run folder. Raises InputError when it holds a run of other settings.

    Asking for more iterations, another evaluation or another place of data and experts continues the same run.
    """
    config = out / "config.json"
    if config.exists():
        before, now = _flat(read_json(config)), _flat(experiment.to_json())
        changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name) and not name.startswith(FREE)]
        if changed:
            name = changed[0]
            raise InputError(
                f"{out} holds a run with other settings ({name} was {before.get(name)!r}, now {now.get(name)!r}); name a new folder with "
                f"--out, or delete that one."
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty and holds no run; name a new folder with --out.")
    write_json(config, experiment.to_json())
    _add_provenance(out / "provenance.json", provenance(experiment.device))


def _add_provenance(path: Path, now: dict[str, Any]) -> None:
    """Keep where the run began, and each different place where it was resumed."""
    first = read_json(path) if path.exists() else now | {"resumed": []}
    known = [{name: place.get(name) for name in now} for place in (first, *first["resumed"])]
    if now not in known:
        first["resumed"].append(now)
    write_json(path, first)


def load_data(experiment: Experiment) -> Dataset:
    """The data set on the experiment's device."""
    return load_dataset(experiment.data, device=experiment.device)


def check_experiment(experiment: Experiment, dataset: Dataset) -> None:
    """Raise InputError where the parts do not fit: before experts are trained, and before anything is written."""
    FlatModel(build_model(experiment.model, dataset.shape, len(dataset.classes)))
    check_settings(dataset, experiment.method.expert.epochs, experiment.method, experiment.distill, experiment.ipc)


def obtain_experts(experiment: Experiment, dataset: Dataset) -> TrajectoryStore:
    """The experts, trained where they are missing, with the quality figure beside them."""
    wanted = experiment.experts
    store = train_experts(
        dataset,
        model=experiment.model,
        recipe=experiment.method.expert,
        count=wanted.count,
        store=wanted.store,
        seed=wanted.seed,
        dtype=wanted.dtype,
    )
    save_quality({experiment.method.name: store.curves()}, store.folder / "quality.png")
    return store


def obtain_synthetic(experiment: Experiment, dataset: Dataset, experts: TrajectoryStore, out: Path) -> SyntheticSet:
    """The distilled set, with its picture and curves beside it."""
    claim(experiment, out)
    synthetic = distill(
        dataset, experts, method=experiment.method, ipc=experiment.ipc, settings=experiment.distill, out=out, seed=experiment.seed
    )
    save_grid(synthetic, out / "images.png")
    save_curves(read_lines(out / "metrics.jsonl"), out / "curves.png")
    return synthetic


def obtain_scores(experiment: Experiment, dataset: Dataset, synthetic: SyntheticSet, out: Path) -> Scores:
    """The scores of the set and of the baselines, resumed network by network."""
    wanted = experiment.evaluation
    return evaluate_all(
        synthetic,
        dataset,
        recipe=wanted.recipe,
        model=wanted.architectures or None,
        seeds=wanted.networks,
        baselines=wanted.baselines,
        out=out,
        seed=experiment.seed,
    )


def run_experiment(experiment: Experiment, out: Path) -> Scores:
    """Every stage in order; each resumes from what `out` and the expert store already hold."""
    dataset = load_data(experiment)
    check_experiment(experiment, dataset)
    claim(experiment, out)
    experts = obtain_experts(experiment, dataset)
    synthetic = obtain_synthetic(experiment, dataset, experts, out)
    return obtain_scores(experiment, dataset, synthetic, out)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {name: leaf for key, inner in value.items() for name, leaf in _flat(inner, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): value}
