"""What an experiment will cost in work, time, memory and disk on this machine, before anything is spent.

Work is counted for every stage, and divided by a speed that is measured on a part of it (`work`). Memory and disk are
counted.
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
"""Bytes of a process that has loaded torch and the package, and does nothing."""
SETS = 7
"""Copies of X at once: itself, its gradient, momentum and average, and the three that a step may go back to."""


@dataclass(frozen=True)
class DatasetSize:
    """What an estimate needs to know of a data set."""

    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int
    validation: int = 0

    def held(self, data: DataConfig, device: str) -> int:
        """Bytes of memory for all images, as that configuration keeps them, and for ZCA's matrices."""
        images = self.train + self.test
        where = residence(data.memory, images, self.shape, data.whiten, device)
        matrices = (data.whiten in MIXING) * (1 + (where != "float32"))
        return held_bytes(where, images, self.shape) + matrices * 4 * math.prod(self.shape) ** 2


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
"""A class of ILSVRC-2012 has 732 to 1,300 training images; those of the subsets are counted with the most."""


def read_for_size(data: DataConfig, ipc: int = 1) -> Description | None:
    """What is known of the data, where their size is not known by their name; None for named sets."""
    if data.source in NAMED and data.size is None:
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
    whole = NAMED[data.source]
    classes = len(data.classes) if data.classes else min(data.first_classes or whole.classes, whole.classes)
    images = classes * min(whole.train // whole.classes, data.per_class or whole.train)
    train = int(images * (1 - data.validation))
    return DatasetSize(whole.shape, classes, train, whole.test * classes // whole.classes, images - train)


@dataclass(frozen=True)
class Stage:
    """One stage: multiply-adds, seconds (not a number where nothing was measured), peak bytes of memory above the idle
    process, bytes on disk."""

    name: str
    work: float
    seconds: float
    memory: int
    disk: int
    parts: tuple[tuple[str, float], ...] = ()
    """What its seconds are spent on: of an evaluation, the rows of the table by name."""


@dataclass(frozen=True)
class Estimate:
    """The stages of an experiment, and the speed that was measured for them, if one was."""

    stages: tuple[Stage, ...]
    speed: Speed | None = field(default=None, compare=False)

    @property
    def together(self) -> Stage:
        """The stages as one: work, time and disk added up, the memory of the largest."""
        work, seconds = (sum(getattr(stage, name) for stage in self.stages) for name in ("work", "seconds"))
        memory, disk = max(stage.memory for stage in self.stages), sum(stage.disk for stage in self.stages)
        return Stage("together", work, seconds, memory, disk)


def estimate(experiment: Experiment, known: DatasetSize | None = None) -> Estimate:
    """The stages with their cost, at a speed that is measured now; a whitening that has to be fitted is one of them.
    Data whose size is not `known` are read for it."""
    known, device = known or dataset_size(experiment), settled_device(experiment.device)
    with phase("measuring this machine"):
        costs = counted(experiment, known, Costs(device, Speed(device)))
        if experiment.data.whiten in MIXING:
            costs = replace(costs, stages=(_whitening(experiment, known), *costs.stages))
    return costs


def counted(experiment: Experiment, known: DatasetSize, costs: Costs) -> Estimate:
    """Experts where there are some, distillation and evaluation; nothing is measured without a speed in `costs`.

    Raises InputError for more images per class than there are.
    """
    if experiment.ipc * known.classes > known.train:
        raise InputError(
            f"{experiment.ipc} images per class were asked for, but there are {known.train // known.classes}; lower "
            f"--ipc."
        )
    stages = _Stages(experiment, known, costs)
    experts = [] if experiment.method.expert is None else [stages.experts()]
    return Estimate((*experts, stages.distillation(), stages.evaluation()), costs.speed)


def shortage(costs: Estimate, free: int | None, held: int = 0) -> str:
    """A sentence for the first stage that needs more memory than the `free` bytes, `held` of which are taken already;
    '' where all fit, or the system does not say what is free."""
    if free is None:
        return ""
    for stage in costs.stages:
        if stage.memory - held > free:
            return (
                f"The stage '{stage.name}' will need about {size(stage.memory - held)} of memory, and {size(free)} are "
                "free: end other programs, or choose fewer --workers (one takes the least), images of fewer bytes "
                "(--data.memory uint8 or disk), a smaller network, or fewer images a step."
            )
    return ""


def summary(costs: Estimate, runs: int = 1) -> list[tuple[str, str]]:
    """The estimate as lines of a name and a text: every stage with its time, memory and disk, the rows of the table,
    and all together, of so many whole runs."""
    stages = [(NAMES.get(number, "Before"), stage) for number, stage in enumerate(reversed(costs.stages))][::-1]
    lines = [(name, f"{stage.name}: {costs_text(stage)}") for name, stage in stages]
    rows = [f"{name} {duration(seconds)}" for name, seconds in costs.stages[-1].parts]
    whole = replace(costs.together, seconds=runs * costs.together.seconds, disk=runs * costs.together.disk)
    repeated = f"{runs} runs: " * (runs > 1)
    lines += [("Rows", ", ".join(rows)), ("Together", repeated + costs_text(whole))]
    return lines


NAMES = {0: "Evaluation", 1: "Distillation", 2: "Experts"}
"""What stages are called, counted from the last."""


def costs_text(stage: Stage) -> str:
    """Time, memory and disk of a stage."""
    return f"{duration(stage.seconds)}, {size(stage.memory)} memory, {size(stage.disk)} disk"


def operations(count: float) -> str:
    """Multiply-adds as people read them: '3.1 T' is 3.1 × 10¹²; '-' for none."""
    if not count:
        return "-"
    for unit in ("", "k", "M", "G", "T", "P"):
        if count < 1000:
            return f"{count:.0f} {unit}".strip() if count >= 10 else f"{count:.1f} {unit}".strip()
        count /= 1000
    return f"{count:.1f} E"


def _whitening(experiment: Experiment, known: DatasetSize) -> Stage:
    """The fit, which is kept in the cache, and needs the set's bytes from there alone."""
    values = math.prod(known.shape)
    cost = zca_cost(known.train, values)
    work = known.train * values**2 / 2
    return Stage(
        f"{MIXING[experiment.data.whiten]} whitening, once for all runs", work, cost.seconds, cost.memory, 4 * values**2
    )


@dataclass(frozen=True)
class _Jobs:
    """Networks that are trained by the plan of the run, and how long they take together."""

    count: int
    plan: WorkerPlan

    def together(self, cost: Cost, guess: float, speed: Speed | None) -> Cost:
        """All jobs as they end: `cost` is that of all, one after another, with the threads of a worker. `guess` are the
        seconds by which the run decides whether it starts workers."""
        if speed is None or used() is not None or not self.plan.starts(self.count, guess):
            return cost
        workers = min(self.plan.workers, self.count)
        crowding = speed.crowding(workers, self.plan.threads)
        rounds = math.ceil(self.count / workers) / self.count
        return replace(cost, seconds=(cost.seconds * rounds + START_S) * crowding)


@dataclass(frozen=True)
class _Stages:
    """The stages of one experiment on data of a known size."""

    experiment: Experiment
    known: DatasetSize
    costs: Costs

    def _network(self, model: str) -> Network:
        return self.costs.network(model, self.known.shape, self.known.classes)

    @property
    def _data(self) -> int:
        """The images and their whitening, which every stage holds."""
        return self.known.held(self.experiment.data, self.costs.device)

    @property
    def _images(self) -> int:
        return self.experiment.ipc * self.known.classes

    def experts(self) -> Stage:
        """All of them, with the test of each epoch."""
        recipe, wanted, known = self.experiment.method.recipe, self.experiment.experts, self.known
        if wanted.imported is not None:
            return Stage(f"experts of {wanted.imported}", 0.0, 0.0, self._data, 0)
        student, epochs = self._network(self.experiment.model), expert_epochs(self.experiment)
        batch = min(recipe.batch, known.train)
        jobs = _Jobs(wanted.count, self._plan(wanted.count, [self.experiment.model]))
        with limited(jobs.plan.threads):
            epoch = self.costs.training(student, recipe, known.train, batch) + self.costs.forward(student, known.test)
        low = expert_seconds(recipe, known.train, epochs, student.parameters, known.shape)
        cost = jobs.together(epoch.times(wanted.count * epochs), wanted.count * low, self.costs.speed)
        disk = wanted.count * (epochs + 1) * student.parameters * (2 if wanted.dtype == "bfloat16" else 4)
        length = f"{epochs} of {recipe.epochs} epochs"
        if epochs == recipe.epochs:
            length = many(epochs, "epoch")
        held = student.held(batch, SECOND_GRAPH if recipe.penalty else GRADIENT_GRAPH)
        memory = self._side_by_side(wanted.count, held, [self.experiment.model])
        return Stage(f"{many(wanted.count, 'expert')} of {length}", cost.work, cost.seconds, memory, disk)

    def _plan(self, jobs: int, networks: Sequence[str]) -> WorkerPlan:
        return plan_workers(jobs, self.experiment.workers, torch.device(self.costs.device), networks)

    def _side_by_side(self, jobs: int, held: int, networks: Sequence[str]) -> int:
        """Bytes for the data and for as many jobs as are done at once, each of which holds so many; workers share a
        second copy of the data. Jobs on a cluster hold theirs elsewhere."""
        if used() is not None:
            return self._data
        workers = self._plan(jobs, networks).workers
        if workers == 1:
            return self._data + held
        return 2 * self._data + workers * (held + IDLE_WORKER)

    def distillation(self) -> Stage:
        """The outer steps, and the networks that are trained for validation."""
        experiment, settings, student = self.experiment, self.experiment.distill, self._network(self.experiment.model)
        seen = self._images * settings.texture.per_slot
        step = experiment.method.step.within(self.known.train, self.known.classes)
        work = step.work(settings, seen, self.known.classes)
        plan = plan_step(experiment.method, experiment.model, experiment.workers, torch.device(self.costs.device))
        cost = self._outer_steps(student, work, plan)
        cost += self.costs.bookkeeping(student, experiment.method, settings, self._images).times(settings.iterations)
        images = 4 * self._images * math.prod(settings.texture.extent(self.known.shape))
        students = 4 * student.parameters * (8 + work.kept * work.training_steps + work.kept_besides)
        sets = 3 if settings.validate_every else 1
        whitening = 4 * math.prod(self.known.shape) ** 2 if experiment.data.whiten in MIXING else 0
        # X and its momentum in the state, what the step keeps there, and each set that is saved.
        disk = 2 * images + 4 * student.parameters * work.saved + sets * (images + whitening)
        if settings.validate_every:
            networks = settings.iterations // settings.validate_every * settings.validate_networks
            recipe = MTT_PROTOCOL.replace(epochs=settings.validate_epochs, released_count=False)
            cost = cost + self._network_trained(student, recipe, self._seen, self.known.validation).times(networks)
        memory = self._data + SETS * images + students + self._held(student, work)
        if plan != HERE:  # workers share a second copy of the data
            memory += self._data + (plan.workers - 1) * (students + self._held(student, work))
            memory += plan.workers * IDLE_WORKER
        return Stage(f"{settings.iterations} outer steps", cost.work, cost.seconds, memory, disk)

    def _outer_steps(self, student: Network, work: StepWork, plan: WorkerPlan) -> Cost:
        """All of them, by the workers that share each."""
        count = self.experiment.distill.iterations * work.repeats
        if plan == HERE:
            return self._outer_step(student, work).times(count)
        with limited(plan.threads):
            cost = self._outer_step(student, work).times(count)
        return _Jobs(work.repeats, plan).together(cost, math.inf, self.costs.speed)

    def _outer_step(self, student: Network, work: StepWork) -> Cost:
        """One of them, as the method's step says what it does."""
        method, strategy, costs = self.experiment.method, self.experiment.distill.augmentation, self.costs
        cost = costs.augmentation(student, strategy, work.augmented)
        cost += costs.features(student, work.forward, work, derivative=False)
        cost += costs.features(student, work.backward, work, derivative=True)
        cost += costs.class_losses(student, work, self.known.classes)
        plain = ExpertRecipe(augmentation=strategy)
        cost += costs.training(student, plain, work.trained, work.trained_at_once)
        if work.training_steps:
            cost += costs.unroll(student, method, strategy, work)
            cost += costs.training(student, plain, work.before * work.batch, work.batch)
        return cost

    def _held(self, student: Network, work: StepWork) -> int:
        """Bytes of graphs and buffers of an outer step, and of the images that are augmented together."""
        steps = work.training_steps if isinstance(self.experiment.method.estimator, Backprop) else 1
        unrolled = student.held(work.batch, SECOND_GRAPH * steps) if work.training_steps else 0
        at_once = max(work.trained_at_once, work.batch * bool(work.before))
        trained = student.held(at_once, GRADIENT_GRAPH) if at_once else 0
        augmented = AT_ONCE_CUDA if torch.device(self.costs.device).type == "cuda" else AT_ONCE
        # Images, augmented images and the derivatives with respect to both.
        return max(unrolled, trained, student.graph(work.at_once, GRADIENT_GRAPH)) + 3 * 4 * augmented

    @property
    def _seen(self) -> int:
        """Images of the synthetic set that a network sees in an epoch."""
        return self._images * self.experiment.distill.texture.looks

    def _network_trained(self, trained: Network, recipe: EvalRecipe, images: int, tested: int) -> Cost:
        """One network trained by the recipe on so many images an epoch, and tested."""
        strategy = recipe.augmented(self.experiment.distill.augmentation).augmentation or ""
        plain = ExpertRecipe(augmentation=strategy, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
        recipe = recipe.for_images(images)
        checks = max(1, len(recipe.steps)) + sum(recipe.checks_after(passes) for passes in range(1, recipe.passes + 1))
        seen, batch = recipe.passes * images, min(recipe.batch, images)
        cost = self.costs.training(trained, plain, seen, batch)
        if recipe.temperature:  # a teacher labels every batch
            cost += self.costs.forward(self._network(self.experiment.model), seen, batch)
        return cost + self.costs.forward(trained, tested).times(checks)

    def _teacher(self, recipe: EvalRecipe) -> Cost | None:
        """The training of a teacher where one is needed: of what the first expert lacks of its recipe, or of an expert
        of MTT's for a method that has none."""
        experiment, train = self.experiment, self.known.train
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
        return (epoch + self.costs.forward(student, self.known.test)).times(epochs)

    def _guess(self, trained: Network, recipe: EvalRecipe, images: int) -> float:
        """The seconds of one network by which the run decides whether it starts workers."""
        passes, (_, height, width) = recipe.for_images(images).passes, self.known.shape
        steps = passes * math.ceil(images / recipe.batch)
        return training_seconds(steps, passes * images, trained.parameters, height * width)

    def evaluation(self) -> Stage:
        """Networks on the set, of each architecture, and of the first one on each baseline."""
        wanted, known = self.experiment.evaluation, self.known
        recipe = evaluation_recipe(self.experiment).for_set(self.experiment.ipc, known.classes)
        names = architectures(wanted.architectures, self.experiment.model, known.shape)
        rows = [("synthetic", names[0], recipe, self._seen)]
        rows += [(name, name, recipe, self._seen) for name in names[1:]]
        rows += [(name, names[0], recipe, self._images) for name in wanted.baselines if name != "full"]
        rows += [("full", names[0], recipe.for_full_data(), known.train)] * ("full" in wanted.baselines)
        jobs = _Jobs(len(rows) * wanted.networks, self._plan(len(rows) * wanted.networks, names))
        whole, guess, memory, parts = Cost(), 0.0, 0, []
        for row, name, each, images in rows:
            trained = self._network(name)
            with limited(jobs.plan.threads):
                cost = self._network_trained(trained, each, images, known.test).times(wanted.networks)
            whole += cost
            guess += wanted.networks * self._guess(trained, each, images)
            parts.append((row, cost.seconds))
            memory = max(memory, trained.held(min(each.batch, images), GRADIENT_GRAPH))
        alone, whole = whole.seconds, jobs.together(whole, guess, self.costs.speed)
        parts = [(row, seconds * whole.seconds / alone) for row, seconds in parts]
        if (teacher := self._teacher(recipe)) is not None:
            whole += teacher
            parts.append(("training of the teacher", teacher.seconds))
        memory = self._side_by_side(len(rows) * wanted.networks, memory, names)
        return Stage(
            f"{many(wanted.networks, 'network')} per row", whole.work, whole.seconds, memory, 100_000, tuple(parts)
        )
