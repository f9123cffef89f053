"""Estimates of the work, time, memory and disk space that an experiment needs on this machine.

The multiply-adds of every stage are counted, and divided by a speed that is measured on a small part of them (`work`).
Memory and disk space are computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from ..data import medmnist
from ..data.dataset import DataConfig
from ..data.description import Description
from ..data.image_folders import IMAGENET_SIZE, IMAGENET_SUBSETS
from ..data.preprocessing import MIXING, zca_cost
from ..data.storage import held_bytes, residence
from ..data.survey import described_by_headers
from ..distillation.sharing import HERE, plan_step
from ..evaluation.protocol import MTT_PROTOCOL, EvalRecipe, architectures
from ..evaluation.rows import TAUGHT
from ..experts.recipe import ExpertRecipe
from ..experts.training import expert_seconds
from ..methods.estimators import Backprop
from ..methods.outer_step import StepWork
from ..methods.trajectory_matching import MTT
from ..methods.unroll import AT_ONCE, AT_ONCE_CUDA
from ..runtime.cluster import used
from ..runtime.devices import settled_device
from ..runtime.errors import InputError
from ..runtime.parallel import START_S, WorkerPlan, limited, plan_workers, training_seconds
from ..runtime.progress import phase
from ..runtime.status import duration, size
from ..runtime.text import many
from .config import Experiment, evaluation_recipe, expert_epochs
from .work import GRADIENT_GRAPH, SECOND_GRAPH, Cost, Costs, Network, Speed

IDLE_WORKER = 200 * 2**20
"""Memory in bytes of an idle process that has loaded torch and the package."""
SETS = 7
"""Copies of X held at once: X, its gradient, momentum and average, and the three that a step can be rolled back to."""


@dataclass(frozen=True)
class DatasetSize:
    """The properties of a data set that an estimate depends on."""

    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int
    validation: int = 0

    def memory_bytes(self, data: DataConfig, device: str) -> int:
        """Memory in bytes of all images, stored as `data` configures, and of the ZCA matrices."""
        images = self.train + self.test + self.validation
        storage = residence(data.memory, images, self.shape, data.whiten, device)
        matrices = (data.whiten in MIXING) * (1 + (storage != "float32"))
        return held_bytes(storage, images, self.shape) + matrices * 4 * math.prod(self.shape) ** 2


NAMED = {
    "digits": DatasetSize((1, 8, 8), 10, 1437, 360),
    "cifar10": DatasetSize((3, 32, 32), 10, 50000, 10000),
    "cifar100": DatasetSize((3, 32, 32), 100, 50000, 10000),
    "mnist": DatasetSize((1, 32, 32), 10, 60000, 10000),
    "fashion_mnist": DatasetSize((1, 32, 32), 10, 60000, 10000),
    "svhn": DatasetSize((3, 32, 32), 10, 73257, 26032),
    "tiny_imagenet": DatasetSize((3, 64, 64), 200, 100000, 10000),
    **{
        f"imagenet-{subset}": DatasetSize((3, IMAGENET_SIZE, IMAGENET_SIZE), 10, 13000, 500)
        for subset in IMAGENET_SUBSETS
    },
    **{
        name: DatasetSize(medmnist.shape(name), len(held.classes), held.train, held.test)
        for name in medmnist.NAMES
        if (held := medmnist.SETS.get(name.removesuffix("_64"))) is not None
    },
}
"""Sizes of the data sets that are known by name. A class of ILSVRC-2012 has 732 to 1,300 training images; 1,300 are
assumed for those of the subsets."""


def read_for_size(data: DataConfig, ipc: int = 1) -> Description | None:
    """Read a description of the data from which their size follows; None for data sets whose size is known by name,
    which holds for their usual columns only."""
    usual = data.size is None and data.image_column is None and data.label_column is None
    if data.source in NAMED and usual:
        return None
    return described_by_headers(data, ipc)


def size_of(description: Description) -> DatasetSize:
    """The size of the described data."""
    parts = description.parts
    count = parts["training"], parts["test"], parts.get("validation", 0)
    return DatasetSize(description.shape, len(description.classes), *count)


def dataset_size(experiment: Experiment) -> DatasetSize:
    """The data set's size: known for named sets, and looked up on disk for all others."""
    data, description = experiment.data, read_for_size(experiment.data)
    if description is not None:
        return size_of(description)
    full = NAMED[data.source]
    classes = len(data.classes) if data.classes else min(data.first_classes or full.classes, full.classes)
    images = classes * min(full.train // full.classes, data.per_class or full.train)
    train = int(images * (1 - data.validation))
    return DatasetSize(full.shape, classes, train, full.test * classes // full.classes, images - train)


@dataclass(frozen=True)
class Stage:
    """Cost of one stage: multiply-adds, seconds (NaN if nothing was measured), peak memory in bytes above that of the
    idle process, and bytes on disk."""

    name: str
    work: float
    seconds: float
    memory: int
    disk: int
    parts: tuple[tuple[str, float], ...] = ()
    """Names and seconds of the stage's parts; for an evaluation, of the rows of the table."""


@dataclass(frozen=True)
class Estimate:
    """The stages of an experiment, and the measured speed if there is one."""

    stages: tuple[Stage, ...]
    speed: Speed | None = field(default=None, compare=False)
    skipped: int = 0
    """Number of last stages of a run that are not among them."""

    @property
    def together(self) -> Stage:
        """All stages as one: the sum of work, time and disk space, and the maximum of memory."""
        work, seconds = (sum(getattr(stage, name) for stage in self.stages) for name in ("work", "seconds"))
        memory, disk = max(stage.memory for stage in self.stages), sum(stage.disk for stage in self.stages)
        return Stage("together", work, seconds, memory, disk)


def estimate(experiment: Experiment, data_size: DatasetSize | None = None, skipped: int = 0) -> Estimate:
    """Estimate the cost of every stage but the last `skipped` at a speed that is measured now. Fitting a whitening is a
    stage of its own. If `data_size` is None, the size is read from the data."""
    data_size, device = data_size or dataset_size(experiment), settled_device(experiment.device)
    with phase("measuring this machine"):
        costs = counted(experiment, data_size, Costs(device, Speed(device)), skipped)
        if experiment.data.whiten in MIXING:
            costs = replace(costs, stages=(_whitening(experiment, data_size), *costs.stages))
    return costs


def counted(experiment: Experiment, data_size: DatasetSize, costs: Costs, skipped: int = 0) -> Estimate:
    """Estimate experts (if the method uses any), distillation and evaluation, without the last `skipped` of them.
    Nothing is measured if `costs` has no speed.

    Raises InputError if `ipc` exceeds the number of training images per class.
    """
    if experiment.ipc * data_size.classes > data_size.train:
        raise InputError(
            f"{experiment.ipc} images per class were asked for, but there are {data_size.train // data_size.classes}; "
            f"lower --ipc."
        )
    stages = _Stages(experiment, data_size, costs)
    experts = [] if experiment.method.expert is None else [stages.experts]
    each = [*experts, stages.distillation, stages.evaluation]
    return Estimate(tuple(stage() for stage in each[: len(each) - skipped]), costs.speed, skipped)


def shortage(costs: Estimate, free: int | None, allocated: int = 0) -> str:
    """A message about the first stage that needs more memory than the `free` bytes; '' if all stages fit, or if `free`
    is None because the system does not report it.

    `allocated` bytes of what each stage needs are already in use.
    """
    if free is None:
        return ""
    for stage in costs.stages:
        if stage.memory - allocated > free:
            return (
                f"The stage '{stage.name}' will need about {size(stage.memory - allocated)} of memory, and "
                f"{size(free)} are free: end other programs, or choose fewer --workers (one takes the least), images "
                "of fewer bytes (--data.memory uint8 or disk), a smaller network, or fewer images a step."
            )
    return ""


def summary(costs: Estimate, runs: int = 1) -> list[tuple[str, str]]:
    """The estimate as (name, text) pairs: each stage with time, memory and disk space, the rows of the table, and the
    total of `runs` whole runs."""
    numbered = [*enumerate(reversed(costs.stages), start=costs.skipped)][::-1]
    lines = [(NAMES.get(number, "Before"), f"{stage.name}: {costs_text(stage)}") for number, stage in numbered]
    if parts := costs.stages[-1].parts:
        lines.append(("Rows", ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts)))
    total = replace(costs.together, seconds=runs * costs.together.seconds, disk=runs * costs.together.disk)
    prefix = f"{runs} runs: " * (runs > 1)
    return [*lines, ("Together", prefix + costs_text(total))]


NAMES = {0: "Evaluation", 1: "Distillation", 2: "Experts"}
"""Names of the stages by their position from the last."""


def costs_text(stage: Stage) -> str:
    """Time, memory and disk of a stage."""
    return f"{duration(stage.seconds)}, {size(stage.memory)} memory, {size(stage.disk)} disk"


def operations(count: float) -> str:
    """Format a number of multiply-adds: '3.1 T' is 3.1 × 10¹²; '-' for none."""
    if not count:
        return "-"
    for unit in ("", "k", "M", "G", "T", "P"):
        if count < 1000:
            return f"{count:.0f} {unit}".strip() if count >= 10 else f"{count:.1f} {unit}".strip()
        count /= 1000
    return f"{count:.1f} E"


def _whitening(experiment: Experiment, data_size: DatasetSize) -> Stage:
    """Cost of fitting the whitening: the memory of the fit, and the disk space of the cached matrix."""
    values = math.prod(data_size.shape)
    cost = zca_cost(data_size.train, values)
    work = data_size.train * values**2 / 2
    return Stage(
        f"{MIXING[experiment.data.whiten]} whitening, once for all runs", work, cost.seconds, cost.memory, 4 * values**2
    )


@dataclass(frozen=True)
class _Jobs:
    """Networks that are trained under a worker plan, and the time they take together."""

    count: int
    plan: WorkerPlan

    def together(self, cost: Cost, guess: float, speed: Speed | None) -> Cost:
        """Cost of all jobs under the plan. `cost` is that of all jobs one after another with the threads of one worker;
        `guess` is the estimate in seconds by which the run decides whether to start workers."""
        if speed is None or used() is not None or not self.plan.starts(self.count, guess):
            return cost
        workers = min(self.plan.workers, self.count)
        slowdown = speed.crowding(workers, self.plan.threads)
        rounds = math.ceil(self.count / workers) / self.count
        return replace(cost, seconds=(cost.seconds * rounds + START_S) * slowdown)


@dataclass(frozen=True)
class _Stages:
    """The stages of one experiment on data of a known size."""

    experiment: Experiment
    data_size: DatasetSize
    costs: Costs

    def _network(self, model: str) -> Network:
        return self.costs.network(model, self.data_size.shape, self.data_size.classes)

    @property
    def _data_bytes(self) -> int:
        """Memory in bytes of the images and their whitening, which every stage holds."""
        return self.data_size.memory_bytes(self.experiment.data, self.costs.device)

    @property
    def _images(self) -> int:
        return self.experiment.ipc * self.data_size.classes

    def experts(self) -> Stage:
        """Training of all experts, with a test after each epoch."""
        recipe, settings, size = self.experiment.method.recipe, self.experiment.experts, self.data_size
        if settings.imported is not None:
            return Stage(f"experts of {settings.imported}", 0.0, 0.0, self._data_bytes, 0)
        student, epochs = self._network(self.experiment.model), expert_epochs(self.experiment)
        batch = min(recipe.batch, size.train)
        jobs = _Jobs(settings.count, self._plan(settings.count, [self.experiment.model]))
        with limited(jobs.plan.threads):
            epoch = self.costs.training(student, recipe, size.train, batch) + self.costs.forward(student, size.test)
        guess = expert_seconds(recipe, size.train, epochs, student.parameters, size.shape)
        cost = jobs.together(epoch.times(settings.count * epochs), settings.count * guess, self.costs.speed)
        disk = settings.count * (epochs + 1) * student.parameters * (2 if settings.dtype == "bfloat16" else 4)
        length = f"{epochs} of {recipe.epochs} epochs"
        if epochs == recipe.epochs:
            length = many(epochs, "epoch")
        bytes_per_job = student.pass_bytes(batch, SECOND_GRAPH if recipe.penalty else GRADIENT_GRAPH)
        memory = self._parallel_memory(settings.count, bytes_per_job, [self.experiment.model])
        return Stage(f"{many(settings.count, 'expert')} of {length}", cost.work, cost.seconds, memory, disk)

    def _plan(self, jobs: int, networks: Sequence[str]) -> WorkerPlan:
        return plan_workers(jobs, self.experiment.workers, torch.device(self.costs.device), networks)

    def _parallel_memory(self, jobs: int, bytes_per_job: int, networks: Sequence[str]) -> int:
        """Memory in bytes of the data and of the jobs that run at once. Workers share a second copy of
        the data; jobs on a cluster use the memory of other machines."""
        if used() is not None:
            return self._data_bytes
        workers = self._plan(jobs, networks).workers
        if workers == 1:
            return self._data_bytes + bytes_per_job
        return 2 * self._data_bytes + workers * (bytes_per_job + IDLE_WORKER)

    def distillation(self) -> Stage:
        """The outer steps, and the networks that are trained for validation."""
        experiment, settings, student = self.experiment, self.experiment.distill, self._network(self.experiment.model)
        images_seen = self._images * settings.texture.per_slot
        step = experiment.method.step.within(self.data_size.train, self.data_size.classes)
        work = step.work(settings, images_seen, self.data_size.classes)
        plan = plan_step(experiment.method, experiment.model, experiment.workers, torch.device(self.costs.device))
        cost = self._outer_steps(student, work, plan)
        cost += self.costs.bookkeeping(student, experiment.method, settings, self._images).times(settings.iterations)
        images = 4 * self._images * math.prod(settings.texture.extent(self.data_size.shape))
        students = 4 * student.parameters * (8 + work.kept * work.training_steps + work.kept_besides)
        sets = 3 if settings.validate_every else 1
        whitening = 4 * math.prod(self.data_size.shape) ** 2 if experiment.data.whiten in MIXING else 0
        # X and its momentum in the state, tensors that the step keeps there, and each saved set.
        disk = 2 * images + 4 * student.parameters * work.saved + sets * (images + whitening)
        if settings.validate_every:
            networks = settings.iterations // settings.validate_every * settings.validate_networks
            recipe = MTT_PROTOCOL.replace(epochs=settings.validate_epochs, released_count=False)
            cost = cost + self._train_network(student, recipe, self._epoch_images, self.data_size.validation).times(
                networks
            )
        memory = self._data_bytes + SETS * images + students + self._step_bytes(student, work)
        if plan != HERE:  # workers share a second copy of the data
            memory += self._data_bytes + (plan.workers - 1) * (students + self._step_bytes(student, work))
            memory += plan.workers * IDLE_WORKER
        return Stage(f"{settings.iterations} outer steps", cost.work, cost.seconds, memory, disk)

    def _outer_steps(self, student: Network, work: StepWork, plan: WorkerPlan) -> Cost:
        """Cost of all outer steps, each shared by the workers."""
        count = self.experiment.distill.iterations * work.repeats
        if plan == HERE:
            return self._outer_step(student, work).times(count)
        with limited(plan.threads):
            cost = self._outer_step(student, work).times(count)
        return _Jobs(work.repeats, plan).together(cost, math.inf, self.costs.speed)

    def _outer_step(self, student: Network, work: StepWork) -> Cost:
        """Cost of one outer step, from the work that the method's step declares."""
        method, strategy, costs = self.experiment.method, self.experiment.distill.augmentation, self.costs
        cost = costs.augmentation(student, strategy, work.augmented)
        cost += costs.features(student, work.forward, work, derivative=False)
        cost += costs.features(student, work.backward, work, derivative=True)
        cost += costs.class_losses(student, work, self.data_size.classes)
        plain = ExpertRecipe(augmentation=strategy)
        cost += costs.training(student, plain, work.trained, work.trained_at_once)
        if work.training_steps:
            cost += costs.unroll(student, method, strategy, work)
            cost += costs.training(student, plain, work.before * work.batch, work.batch)
        return cost

    def _step_bytes(self, student: Network, work: StepWork) -> int:
        """Memory in bytes of the graphs and buffers of an outer step, and of the images that are augmented together."""
        steps = work.training_steps if isinstance(self.experiment.method.estimator, Backprop) else 1
        unrolled = student.pass_bytes(work.batch, SECOND_GRAPH * steps) if work.training_steps else 0
        at_once = max(work.trained_at_once, work.batch * bool(work.before))
        trained = student.pass_bytes(at_once, GRADIENT_GRAPH) if at_once else 0
        augmented = AT_ONCE_CUDA if torch.device(self.costs.device).type == "cuda" else AT_ONCE
        # Images, augmented images and the derivatives with respect to both.
        return max(unrolled, trained, student.graph(work.at_once, GRADIENT_GRAPH)) + 3 * 4 * augmented

    @property
    def _epoch_images(self) -> int:
        """Images of the synthetic set that a network sees in an epoch."""
        return self._images * self.experiment.distill.texture.looks

    def _train_network(self, network: Network, recipe: EvalRecipe, images: int, test_images: int) -> Cost:
        """Cost of training one network by the recipe on `images` images per epoch, and of testing it."""
        strategy = recipe.augmented(self.experiment.distill.augmentation).augmentation or ""
        plain = ExpertRecipe(augmentation=strategy, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
        recipe = recipe.for_images(images)
        checks = max(1, len(recipe.steps)) + sum(recipe.checks_after(passes) for passes in range(1, recipe.passes + 1))
        total_images, batch = recipe.passes * images, min(recipe.batch, images)
        cost = self.costs.training(network, plain, total_images, batch)
        if recipe.temperature:  # a teacher labels every batch
            cost += self.costs.forward(self._network(self.experiment.model), total_images, batch)
        return cost + self.costs.forward(network, test_images).times(checks)

    def _teacher(self, recipe: EvalRecipe) -> Cost | None:
        """Cost of training a teacher, None if none is needed: the remaining epochs of the first expert, or a whole MTT
        expert for a method without experts."""
        experiment, train = self.experiment, self.data_size.train
        if not recipe.temperature and TAUGHT not in experiment.evaluation.baselines:
            return None
        expert, epochs = MTT.recipe, MTT.recipe.epochs
        if experiment.method.expert is not None:
            expert = experiment.method.recipe
            epochs = expert.epochs - expert_epochs(experiment)
        if not epochs or experiment.experts.imported is not None:
            return None
        student = self._network(experiment.model)
        epoch = self.costs.training(student, expert, train, min(expert.batch, train))
        return (epoch + self.costs.forward(student, self.data_size.test)).times(epochs)

    def _guessed_seconds(self, network: Network, recipe: EvalRecipe, images: int) -> float:
        """Estimated seconds for one network, by which the run decides whether to start workers."""
        passes, (_, height, width) = recipe.for_images(images).passes, self.data_size.shape
        steps = passes * math.ceil(images / recipe.batch)
        return training_seconds(steps, passes * images, network.parameters, height * width)

    def evaluation(self) -> Stage:
        """Networks of each architecture trained on the set, and of the first architecture on each baseline."""
        settings, size = self.experiment.evaluation, self.data_size
        recipe = evaluation_recipe(self.experiment).for_set(self.experiment.ipc, size.classes)
        names = architectures(settings.architectures, self.experiment.model, size.shape)
        rows = [("synthetic", names[0], recipe, self._epoch_images)]
        rows += [(name, name, recipe, self._epoch_images) for name in names[1:]]
        rows += [(name, names[0], recipe, self._images) for name in settings.baselines if name != "full"]
        rows += [("full", names[0], recipe.for_full_data(), size.train)] * ("full" in settings.baselines)
        jobs = _Jobs(len(rows) * settings.networks, self._plan(len(rows) * settings.networks, names))
        total, guess, memory, parts = Cost(), 0.0, 0, []
        for row, name, each, images in rows:
            network = self._network(name)
            with limited(jobs.plan.threads):
                cost = self._train_network(network, each, images, size.test).times(settings.networks)
            total += cost
            guess += settings.networks * self._guessed_seconds(network, each, images)
            parts.append((row, cost.seconds))
            memory = max(memory, network.pass_bytes(min(each.batch, images), GRADIENT_GRAPH))
        sequential_seconds, total = total.seconds, jobs.together(total, guess, self.costs.speed)
        parts = [(row, seconds * total.seconds / sequential_seconds) for row, seconds in parts]
        if (teacher := self._teacher(recipe)) is not None:
            total += teacher
            parts.append(("training of the teacher", teacher.seconds))
        memory = self._parallel_memory(len(rows) * settings.networks, memory, names)
        return Stage(
            f"{many(settings.networks, 'network')} per row", total.work, total.seconds, memory, 100_000, tuple(parts)
        )
