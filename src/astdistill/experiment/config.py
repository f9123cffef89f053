"""The `Experiment` record (data, experts, method, settings, evaluation) and the checks that its parts fit together."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from ..autodiff.dispatch import EngineName, chosen, using
from ..data.dataset import DataConfig, Dataset
from ..data.loading import load_dataset
from ..data.sources import DEFAULT_SIZES
from ..distillation.settings import DistillSettings, check, check_data, check_settings
from ..evaluation.protocol import MTT_PROTOCOL, EvalRecipe, architectures
from ..evaluation.rows import check_names, check_taught
from ..evaluation.scores import Published
from ..experts.store import RECIPE, TrajectoryStore, check_root, files_at
from ..methods.method import Method
from ..methods.outer import StepFilter
from ..methods.outer_step import TrajectoryMatching
from ..methods.trajectory_matching import MTT
from ..models.flat import FlatModel
from ..models.registry import build_model
from ..runtime.config import PathOrUrl, Record, find_component, moved
from ..runtime.devices import settled_device
from ..runtime.errors import InputError, unknown
from ..runtime.files import check_folder
from ..runtime.machine import MOST_SIDE_BY_SIDE
from ..runtime.objects import Url

MOVED: Mapping[str, str] = {
    "distill.inner_steps": "method.step.syn_steps",
    "distill.matched_epochs": "method.step.expert_epochs",
    "distill.max_start_epoch": "method.step.max_start_epoch",
    "distill.batch_syn": "method.step.batch_syn",
    "distill.trajectories": "method.step.trajectories",
}
"""Dotted paths of settings in earlier versions, mapped to the current paths. They are accepted in files and on the
command line. Fields that were renamed within one record are listed in that record's `renamed`."""


class ExpertSettings(Record):
    """Which experts, and where they are kept."""

    count: int = Field(default=100, ge=1)
    """Number of experts. Those already in the store are not trained again."""
    store: PathOrUrl = Path("experts")
    """Folder of the experts, or an address such as s3://BUCKET/FOLDER; each recipe has a sub-folder of its own."""
    seed: int = 0
    """Random seed of the experts. It is independent of the seed of the run, so that runs with different seeds can share
    experts."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the stored parameters. bfloat16 takes half the disk space of float32."""
    stop_after: int | Literal["auto"] | None = "auto"
    """Train experts for only this many epochs of their recipe. auto: as many as this run reads; None: all. The schedule
    of the learning rate is still that of the whole recipe, and a later run that needs more epochs continues the same
    experts. Methods whose first images or labels come from a trained expert use its last epoch: auto then trains all
    epochs, and another number changes the images."""
    imported: str | None = None
    """Use the experts of this folder in the store, as made by import-buffers, and train none. distill.max_experts
    limits their number; their recipe is not that of the method."""

    def unread(self) -> tuple[str, ...]:
        return () if self.imported is None else ("count", "dtype", "seed", "stop_after")


class EvaluationSettings(Record):
    """How the result is judged."""

    recipe: EvalRecipe = MTT_PROTOCOL
    networks: int = Field(default=5, ge=1)
    """Number of networks per row of the table, each newly initialised."""
    architectures: tuple[str, ...] = ()
    """Networks to evaluate, by name or by pool: S, M, W, D, A, P, N. Default: the network that the set was distilled
    with."""
    baselines: tuple[Literal["random", "kmeans", "herding", "kcenter", "teacher", "full"], ...] = ("random", "kmeans")
    """Baselines of real images, evaluated in the same way. random: random images, as many per class; kmeans: the images
    nearest the K-means centres of each class; herding, kcenter: chosen greedily by their pixels; teacher: random images
    with soft labels of a trained network (an expert of this run, or else one of MTT's); full: all training images,
    which takes longest (epochs: evaluation.recipe.full_epochs, or those of an expert)."""

    def unread(self) -> tuple[str, ...]:
        return ("recipe.networks", *(() if "full" in self.baselines else ("recipe.full_epochs",)))


class Experiment(Record):
    """Everything that decides a result."""

    name: str
    data: DataConfig = DataConfig()
    model: str = "convnet-d3"
    """Network of experts and student."""
    experts: ExpertSettings = ExpertSettings()
    method: Method = MTT
    ipc: int = Field(default=1, ge=1)
    """Synthetic images per class."""
    distill: DistillSettings = DistillSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    device: str = "auto"
    """Device: auto, cpu, cuda or cuda:N. auto is the GPU if there is a usable one, otherwise the CPU."""
    workers: int | None = Field(default=None, ge=1, le=MOST_SIDE_BY_SIDE)
    """Processes that train experts or evaluated networks, and share the trajectories of an outer step if there are
    several. The threads are divided among them; results differ by rounding only. On GPUs each takes one. Default: one
    per core on a CPU, one on a GPU, and one for an outer step."""
    engine: EngineName = "auto"
    """How derivatives are computed: native (C kernels, for the ConvNet on a CPU), compiled, compiled-bfloat16, or
    eager. auto takes $ASTDISTILL_ENGINE, or the fastest that supports the network. Results differ by rounding only."""
    seed: int = 0
    """Random seed of distillation and evaluation."""
    published: Published = Published()

    def unread(self) -> tuple[str, ...]:
        rates = {"images": ("lr_img",), "targets": ("lr_targets", "targets_momentum"), "lr": ("lr_lr",)}
        idle = (f"distill.{name}" for part, names in rates.items() if part not in self.method.learn for name in names)
        others = {
            "method.expert": self.experts.imported is not None,
            "distill.max_passes": type(self.method.step_filter).passes is StepFilter.passes,
            "data.resize": self.data.size is None and self.data.source not in DEFAULT_SIZES,
        }
        return (*self.method.ignores, *idle, *(name for name, unused in others.items() if unused))

    @model_validator(mode="before")
    @classmethod
    def _move_old_settings(cls, data: Any) -> Any:
        """Move settings of earlier versions to their current paths. Those that the outer step does not have are
        dropped."""
        if not isinstance(data, Mapping):
            return data
        data = {"method": MTT, **data}
        step_fields = _fields_of_step(data["method"])
        current = moved(data, {old: new for old, new in MOVED.items() if new.rpartition(".")[2] in step_fields})
        settings = current.get("distill")
        if isinstance(settings, Mapping):
            current["distill"] = {name: value for name, value in settings.items() if f"distill.{name}" not in MOVED}
        return current


def _fields_of_step(method: Any) -> Mapping[str, Any]:
    """The fields of a method's outer step. `method` is a record, or a mapping as read from a file."""
    step = method.get("step") if isinstance(method, Mapping) else getattr(method, "step", None)
    if isinstance(step, Record):
        return type(step).model_fields
    part_name = step.get("part") if isinstance(step, Mapping) else None
    kind = find_component(part_name) if part_name else TrajectoryMatching
    return getattr(kind, "model_fields", {})


def expert_epochs(experiment: Experiment) -> int:
    """Number of epochs that each expert of the experiment is trained for.

    Raises InputError if `stop_after` is smaller than the last epoch that the run reads, and for a method without
    experts.
    """
    stop_after, whole = experiment.experts.stop_after, experiment.method.recipe.epochs
    read = experiment.method.step.last_epoch or whole
    if stop_after is None or (stop_after == "auto" and experiment.method.reads_trained):
        return whole
    if stop_after == "auto":
        return min(read, whole)
    if not read <= stop_after <= whole:
        raise InputError(
            f"--experts.stop-after {stop_after} was given, but this run reads experts up to epoch {read} of the "
            f"{whole} of their recipe (see --method.step); choose {read} to {whole}, or auto."
        )
    return stop_after


def evaluation_recipe(experiment: Experiment) -> EvalRecipe:
    """The recipe of the evaluation. If the full data set is a baseline and its epochs are not set, they are those of an
    expert (of an MTT expert for a method without experts)."""
    evaluation = experiment.evaluation
    if "full" not in evaluation.baselines or evaluation.recipe.full_epochs:
        return evaluation.recipe
    return evaluation.recipe.replace(full_epochs=(experiment.method.expert or MTT.recipe).epochs)


def load_data(experiment: Experiment) -> Dataset:
    """The data set on the experiment's device."""
    return load_dataset(experiment.data, device=settled_device(experiment.device))


ABSENT = "(none)"
"""Placeholder for the value of a field that the current method does not have."""


def value_of(record: Any, field: str) -> Any:
    """The value at a dotted path in a record; `ABSENT` if the path does not exist."""
    return functools.reduce(lambda inner, name: getattr(inner, name, ABSENT), field.split("."), record)


def with_value(record: Any, field: str, value: Any) -> Any:
    """A copy of the record with `value` at a dotted path."""
    first, _, inner_path = field.partition(".")
    return record.changed(**{first: with_value(getattr(record, first), inner_path, value) if inner_path else value})


def check_numbers(experiment: Experiment) -> None:
    """Raise InputError if settings contradict each other, independently of the data."""
    with using(experiment.engine):
        chosen()
    check_taught(experiment.evaluation.recipe, experiment.evaluation.baselines)
    if experiment.method.expert is None:
        check_settings(experiment.method, experiment.distill, None)
        return
    if experiment.experts.imported is not None:
        _check_imported(experiment)
        return
    check_root(experiment.experts.store)
    check_settings(experiment.method, experiment.distill, experiment.method.recipe.epochs)
    expert_epochs(experiment)
    limit = experiment.distill.max_experts
    if limit is not None and limit > experiment.experts.count:
        raise InputError(
            f"--distill.max-experts {limit} is more than the {experiment.experts.count} experts of this run; lower "
            "it, or raise --experts.count."
        )


def _check_imported(experiment: Experiment) -> None:
    store = imported_experts(experiment)
    if store.identity.model != experiment.model:
        raise InputError(
            f"--model {experiment.model} was asked for, but the experts in {store.folder} are networks "
            f"{store.identity.model}; give --model {store.identity.model}."
        )
    store.first(experiment.distill.max_experts or 1)
    check_settings(experiment.method, experiment.distill, store.epochs, f"the experts in {store.folder} have")


def check_experiment(experiment: Experiment, dataset: Dataset) -> None:
    """Raise InputError if the parts do not fit together. Called before experts are trained and before anything is
    written."""
    check_numbers(experiment)
    check_data(dataset, experiment.method, experiment.distill, experiment.ipc)
    if experiment.method.expert is not None and experiment.experts.imported is not None:
        check(dataset, imported_experts(experiment), experiment.method, experiment.distill, experiment.ipc)
    FlatModel(build_model(experiment.model, dataset.shape, len(dataset.classes)))
    check_names(architectures(experiment.evaluation.architectures, experiment.model, dataset.shape), dataset)


def imported_experts(experiment: Experiment) -> TrajectoryStore:
    """The store called `experts.imported`. Raises InputError if there is no store of that name."""
    root, name = experiment.experts.store, experiment.experts.imported or ""
    if not isinstance(root, Url):
        check_folder(root, "--experts.store")
    names = [folder.name for folder in files_at(root).stores(RECIPE)]
    if name not in names:
        raise unknown("store of experts", name, names, context=f"in {root}")
    return TrajectoryStore.open(root / name)
