"""Counts the multiply-adds of networks, and measures the seconds that this machine needs for a part of them."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ..autodiff.dispatch import chosen, engine_name, engine_of
from ..autodiff.native.build import described, library
from ..autodiff.native.engine import VALUES
from ..autodiff.training import Trainee
from ..data.augmentation import apply, draw
from ..data.dataset import Split
from ..distillation.settings import DistillSettings
from ..distillation.state import DistillState
from ..experts.recipe import ExpertRecipe
from ..experts.training import make_optimiser, train_epoch
from ..methods.estimators import Backprop, Estimator, FirstOrder, Truncated
from ..methods.matching import Matching
from ..methods.method import Method
from ..methods.outer_step import StepWork
from ..methods.student_optimisers import StudentOptimiser
from ..methods.unroll import InnerLoop, MetaGradient, Variables, draw_plan
from ..models.convnets import is_plain
from ..models.flat import FlatModel
from ..models.registry import build_model
from ..runtime.devices import read, settled_device
from ..runtime.machine import Started, cores, crowded, load
from ..runtime.provenance import instructions
from ..runtime.seeds import rng
from ..runtime.text import many

Shape = tuple[int, int, int]


class Passes(NamedTuple):
    """How often the work of a forward pass is done, in layers that read the images (`first`) and in all others
    (`inner`).

    The former compute no derivative with respect to the images unless it is needed.
    """

    first: int
    inner: int

    def times(self, count: int) -> Passes:
        return Passes(self.first * count, self.inner * count)

    def plus(self, other: Passes) -> Passes:
        return Passes(self.first + other.first, self.inner + other.inner)


FORWARD, BACKWARD = Passes(1, 1), Passes(2, 2)
"""Logits or features; the same with the derivative with respect to the images."""
TRAIN = Passes(2, 3)
"""Forward, adjoint of the weights, adjoint of the inputs."""
PENALISED = Passes(5, 6)
"""Forward 1, input gradient 1, its adjoints with respect to cotangent and weight 2, adjoints of the forward pass 2."""
WALK = Passes(5, 8)
"""One step of the walk back: forward 1, tangent 2, input adjoint 1 and its tangent 2, weight adjoint's tangent 2."""
WALK_FIRST_ORDER = Passes(4, 6)
"""The same without the tangent of the weight adjoint."""
GRAPH = Passes(6, 9)
"""One step through a graph of all steps: forward 1, adjoints 2, and the adjoints of these three."""


def training_passes(recipe: ExpertRecipe) -> Passes:
    """Passes of one training step by the recipe, per image."""
    passes = TRAIN
    if recipe.penalty:
        passes = {"image": PENALISED, "pixel": TRAIN.plus(PENALISED)}[recipe.penalty_form]
    if recipe.sam_rho:
        passes = passes.times(2)
    return passes


def unroll_passes(estimator: Estimator, steps: int) -> Passes:
    """Passes of the derivative through `steps` training steps, per image of a step; a user's estimator counts as
    exact."""
    walk = WALK.times(steps)
    match estimator:
        case Backprop():
            return GRAPH.times(steps)
        case FirstOrder():
            walk = WALK_FIRST_ORDER.times(steps)
        case Truncated():
            walk = WALK.times(min(estimator.k, steps))
    return TRAIN.times(steps).plus(walk)


class _Counting:
    """Implements `OperationCount`. It is a separate class because TorchDispatchMode wraps a `__torch_dispatch__` of its
    direct subclass in code that imports torch._dynamo, which takes 1.5 s."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self._formulas: dict[Any, Callable[..., int]] = FlopCounterMode(display=False).flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = kwargs or {}
        with self:  # pyright: ignore[reportGeneralTypeIssues]
            output = func.decompose(*args, **arguments)
        if output is not NotImplemented:
            return output
        output = func(*args, **arguments)
        formula = self._formulas.get(func._overloadpacket)
        if formula is not None:
            self.operations += formula(*args, **arguments, out_val=output)
        return output


class OperationCount(_Counting, TorchDispatchMode):
    """Counts the floating-point operations of a block, two for a multiply-add, by the formulas of FlopCounterMode."""


def counted_operations(network: nn.Module, images: Tensor) -> int:
    """Floating-point operations of a forward pass, as FlopCounterMode counts them."""
    with torch.no_grad():
        try:
            with OperationCount() as counted:
                network(images)
            return counted.operations
        except RuntimeError:  # torch.cond and similar operators, which import dynamo anyway
            with FlopCounterMode(display=False) as counter:
                network(images)
            return counter.get_total_flops()


@dataclass(frozen=True)
class Network:
    """A network by name for images of one shape, and its cost per image."""

    model: str
    shape: Shape
    classes: int
    device: str = "cpu"

    @cached_property
    def module(self) -> nn.Module:
        """The network, on the CPU."""
        return build_model(self.model, self.shape, self.classes)

    @cached_property
    def parameters(self) -> int:
        """The number of parameters P."""
        return sum(part.numel() for part in self.module.parameters())

    @cached_property
    def counts(self) -> tuple[int, int, int]:
        """Multiply-adds of a forward pass in layers that read the image and in all others, and the number of output
        values of all layers."""
        images, first, values = torch.zeros(1, *self.shape, dtype=torch.float32), 0, 0

        def count(part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal first, values
            values += output.numel()
            if isinstance(part, nn.Conv2d | nn.Linear) and inputs[0].data_ptr() == images.data_ptr():
                first += output.numel() * part.weight[0].numel()

        network = copy.deepcopy(self.module).eval()
        leaves = [part for part in network.modules() if not list(part.children())]
        hooks = [part.register_forward_hook(count) for part in leaves]
        with torch.no_grad():
            network(images)
        for hook in hooks:
            hook.remove()
        return first, counted_operations(network, images) // 2 - first, values

    def multiply_adds(self, passes: Passes) -> int:
        """Multiply-adds of one image."""
        first, inner, _ = self.counts
        return passes.first * first + passes.inner * inner

    @cached_property
    def engine(self) -> str:
        """The engine that computes its derivatives on the device while it is trained: native, compiled,
        compiled-bfloat16 or eager, as for each network that is called directly."""
        if not is_plain(self.module):
            return "eager"
        return self.engine_of_steps

    @cached_property
    def engine_of_steps(self) -> str:
        """The engine of outer steps, which differentiate any network as a function of θ."""
        name = chosen()
        if list(self.module.buffers()):  # outer steps refuse it
            return "eager"
        if torch.device(self.device).type == "cuda":
            return {"auto": "compiled", "native": "eager"}.get(name, name)
        model = FlatModel(self.module)
        return engine_name(model, model.flatten(), torch.zeros(1, *self.shape, dtype=torch.float32))

    def engine_text(self) -> str:
        """The engine and its instruction set as text; for the slow engine, also the reason and a remedy."""
        kernels = None
        if torch.device(self.device).type == "cpu":
            kernels = library()
        if self.engine == "native" and kernels is not None:
            return f"native ({described(kernels)}), {many(torch.get_num_threads(), 'thread')}"
        if self.engine != "eager":
            return f"{self.engine} on {self.device}"
        text = f"eager (torch's own derivatives, {instructions()}), {many(torch.get_num_threads(), 'thread')}"
        if torch.device(self.device).type != "cpu":
            text = f"eager (torch's own derivatives) on {self.device}"
        if self.engine_of_steps != "eager":
            return f"{text}; outer steps: {self.engine_of_steps}"
        if chosen() == "eager":
            return f"{text}, as requested; --engine auto takes the fastest that can"
        if kernels is None:  # `library` has reported the reason
            return text
        return (
            f"{text}: the faster native engine supports instance-norm ConvNets only, with a width that is a multiple "
            "of 16 and a size that halves at every block"
        )

    def pass_bytes(self, images: int, graph: float) -> int:
        """Memory in bytes of a pass over `images` images. A graph keeps `graph` times the outputs of the layers; the
        native kernels have buffers for a part of a large batch."""
        values = self.counts[2]
        if self.engine == "native":
            return round(4 * NATIVE_BUFFERS * min(images * values, max(values, NATIVE_VALUES)))
        return self.graph(images, graph)

    def graph(self, images: int, graph: float) -> int:
        """Memory in bytes of torch's own graph for `images` images, and of two copies of the parameters."""
        return round(4 * graph * images * self.counts[2]) + 8 * self.parameters


NATIVE_BUFFERS = 2.0
"""Copies of a part's values and their adjoints that the native engine holds: 1.5 to 2.0 in ConvNets of widths 32 and
128 at 32 and 128 px."""
NATIVE_VALUES = 4.3 * VALUES
"""Output values of the layers of a ConvNet for one part: convolution, norm, ReLU and pooling of each of its blocks."""
GRADIENT_GRAPH, SECOND_GRAPH = 0.8, 1.4
"""Values that torch keeps for a gradient, and for the derivative of a gradient, relative to the outputs of the layers:
0.73 and 1.35 in ConvNets, by hooks on saved tensors."""


@dataclass(frozen=True)
class Cost:
    """Multiply-adds and the seconds that they take (NaN if nothing was measured)."""

    work: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.work + other.work, self.seconds + other.seconds)

    def times(self, count: float) -> Cost:
        return Cost(self.work * count, self.seconds * count)


SAMPLES = {"native": 1e9, "eager": 4e9, "compiled": 1e11, "compiled-bfloat16": 1e11}
"""Multiply-adds of the forward pass in a measured part of a step: enough to occupy all parts of an engine, or a GPU."""
MOST_IMAGES = 1024
"""Maximum number of images in a measured part: those of a narrow network take longer than their multiply-adds
suggest."""
ENOUGH_S = 0.1
"""Minimum seconds for which a part is repeated, because each repetition draws other augmentations."""
LONGER_S = 0.25
"""The same if other programs are running: about sixty time slices of a scheduler."""
OWN_SHARE = 0.8
"""Other programs were running if the measuring thread computed for less than this share of the time."""


@dataclass
class Speed:
    """Multiply-adds per second of each kind of step on this machine, measured when a kind is first needed."""

    device: str
    rates: dict[Hashable, float] = field(default_factory=dict)
    load: float = field(default_factory=load)
    """Number of processes that needed a core, as a mean over the last minute."""
    wall_s: float = 0.0
    cpu_s: float = 0.0

    def __post_init__(self) -> None:
        self.device = settled_device(self.device)

    def seconds(self, kind: Hashable, work: float, part: float, make: Callable[[], Callable[[], None]]) -> float:
        """Seconds for `work`, at the rate of the step that `make` returns, which does `part` of it."""
        kind = kind, torch.get_num_threads()
        if kind not in self.rates:
            self.rates[kind] = part / self._measured(make())
        return work / self.rates[kind]

    def _measured(self, step: Callable[[], None]) -> float:
        """Wall-clock seconds of a step. If other programs are running, they include the wait for cores, and the step is
        repeated for longer, because the scheduler assigns cores in time slices."""
        step()  # allocates buffers, compiles a library or a graph
        self._synchronize()
        start, cpu_before, runs, elapsed, cpu_s = time.perf_counter(), time.thread_time(), 0, 0.0, 0.0
        while elapsed < ENOUGH_S or (elapsed < LONGER_S and not self._on_gpu and cpu_s < OWN_SHARE * elapsed):
            step()
            self._synchronize()
            runs, elapsed = runs + 1, time.perf_counter() - start
            cpu_s = time.thread_time() - cpu_before
        self.wall_s, self.cpu_s = self.wall_s + elapsed, self.cpu_s + cpu_s
        return elapsed / runs

    def crowding(self, workers: int, threads: int) -> float:
        """Slowdown of each of `workers` workers compared with one alone, which was measured, because they share the
        cores with each other and with other programs."""
        if self._on_gpu:
            return 1.0
        available, others = cores(), self._other_processes()
        return fair_share(threads, others, available) * workers / fair_share(workers * threads, others, available)

    def _other_processes(self) -> float:
        """Number of other processes that need a core: the number of busy cores, or more if the measuring thread got
        less than a whole core."""
        neighbours = Started.neighbours
        busy = neighbours.room.busy if neighbours is not None and neighbours.room is not None else 0.0
        return max(busy, cores() / max(self.share, 0.01) - 1 if self.share < OWN_SHARE else 0.0)

    @property
    def _on_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"

    def _synchronize(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize(self.device)

    @property
    def share(self) -> float:
        """Processor time of the measuring thread divided by wall-clock time; 1 on a GPU, or if nothing was measured."""
        if self._on_gpu or not self.wall_s:
            return 1.0
        return min(1.0, self.cpu_s / self.wall_s)

    def disturbed(self) -> str:
        """A sentence about other programs that ran during the measurement, or ''."""
        if self.share >= OWN_SHARE and not crowded(self.load):
            return ""
        return (
            f"Other programs are running (load average {self.load:.1f} on {many(cores(), 'core')}; this process got "
            f"{self.share:.0%} of its time): the estimated times are rough, and shorter on an idle machine."
        )


def fair_share(threads: int, others: float, available: int) -> float:
    """Cores that `threads` threads get if `others` other processes need one each, and all have the same priority."""
    return min(threads, available * threads / (threads + others), available)


@dataclass(frozen=True)
class Costs:
    """Costs of single steps of networks; seconds are NaN without a `speed`."""

    device: str
    speed: Speed | None = None
    networks: dict[Hashable, Network] = field(default_factory=dict)
    """Networks that were requested, so that each is built and counted once."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", settled_device(self.device))

    def network(self, model: str, shape: Shape, classes: int) -> Network:
        """The network called `model`, for the current engine."""
        requested = Network(model, shape, classes, self.device)
        return self.networks.setdefault((chosen(), requested), requested)

    def training(self, network: Network, recipe: ExpertRecipe, images: float, batch: int) -> Cost:
        """Cost of training on `images` images in total, in batches, with augmentation and the optimiser's step.

        Sharpness-aware minimisation is counted as two steps, one of which is timed.
        """
        sample, per_image = self._sample(network, batch), network.multiply_adds(training_passes(recipe))
        form = recipe.penalty_form if recipe.penalty else ""
        kind = "training", network.model, network.shape, network.engine, form, recipe.augmentation, sample
        single_step = recipe.replace(sam_rho=0.0)
        part = sample * network.multiply_adds(training_passes(single_step))
        return self._cost(kind, images * per_image, part, lambda: _training(network, single_step, sample))

    def forward(self, network: Network, images: float, batch: int | None = None) -> Cost:
        """Cost of the logits of `images` images, all at once as in a test, or in batches."""
        sample, per_image = self._sample(network, batch or math.ceil(images)), network.multiply_adds(FORWARD)
        kind = "logits", network.model, network.shape, network.engine, sample
        return self._cost(kind, images * per_image, sample * per_image, lambda: _logits(network, sample))

    def unroll(self, network: Network, method: Method, strategy: str, done: StepWork) -> Cost:
        """Cost of the derivative through the training steps of one outer step."""
        batch, steps = done.batch, done.training_steps
        sample = self._sample(network, batch)
        timed_steps = max(1, min(steps, self._sample(network, sample * steps) // sample))
        work, part = (network.multiply_adds(unroll_passes(method.estimator, count)) for count in (steps, timed_steps))
        inner = network.engine, method.estimator.digest(), type(done.optimiser), strategy, sample, timed_steps
        kind = "unroll", network.model, network.shape, inner
        make = partial(_unroll, network, method, strategy, sample, timed_steps, done.optimiser)
        return self._cost(kind, batch * work, sample * part, make)

    def features(self, network: Network, images: float, done: StepWork, derivative: bool) -> Cost:
        """Cost of the features of `images` images, or of these and their derivative with respect to the images, in the
        groups of an outer step: torch takes twice as long per image for 500 images as for 50."""
        per_image = network.multiply_adds(BACKWARD if derivative else FORWARD)
        sample = self._sample(network, math.ceil(images / done.groups))
        kind = "features", network.model, network.shape, network.engine, derivative, sample
        make = partial(_features, network, sample, derivative)
        return self._cost(kind, images * per_image, sample * per_image, make)

    def class_losses(self, network: Network, done: StepWork, classes: int) -> Cost:
        """Cost of the losses of all classes on their features, with the derivative. No multiply-adds are counted; of
        more than `MOST_REAL` real images, a part is timed."""
        if done.class_loss is None:
            return Cost()
        real, synthetic = (
            max(1, math.ceil(count / classes)) for count in (done.forward, done.augmented - done.forward)
        )
        timed = min(real, MOST_REAL)
        kind = "class loss", network.model, network.shape, self.device, timed, synthetic
        make = partial(_class_loss, network, done.class_loss, timed, synthetic)
        return Cost(0.0, self._cost(kind, classes * (real + synthetic), timed + synthetic, make).seconds)

    def augmentation(self, network: Network, strategy: str, images: float) -> Cost:
        """Cost of augmenting `images` images. No multiply-adds are counted."""
        if not strategy or not images:
            return Cost()
        sample = max(1, min(math.ceil(images), AUGMENTED))
        kind = "augmentation", network.shape, strategy, sample
        return Cost(0.0, self._cost(kind, images, sample, lambda: _augmentation(network, strategy, sample)).seconds)

    def bookkeeping(self, network: Network, method: Method, settings: DistillSettings, images: int) -> Cost:
        """Cost of everything else in an outer step on `images` images, once it has their derivative. No multiply-adds
        are counted; of many images, a part is timed."""
        values = math.prod(settings.texture.extent(network.shape))
        sample = max(1, min(images, MOST_VALUES // values))
        kind = "bookkeeping", network.shape, settings.digest(), sample
        make = partial(_bookkeeping, network, method, settings, sample)
        return Cost(0.0, self._cost(kind, images, sample, make).seconds)

    def _cost(self, kind: Hashable, work: float, part: float, make: Callable[[], Callable[[], None]]) -> Cost:
        if not work:
            return Cost(work)
        if self.speed is None:
            return Cost(work, math.nan)
        return Cost(work, self.speed.seconds(kind, work, part, make))

    def _sample(self, network: Network, images: int) -> int:
        """Images of the measured part: as many of these as `SAMPLES` and `MOST_IMAGES` allow."""
        per_image = max(1, network.multiply_adds(FORWARD))
        return max(1, min(images, MOST_IMAGES, round(SAMPLES[network.engine] / per_image)))


AUGMENTED, MOST_REAL = 256, 128
MOST_VALUES = 2**21
"""Maximum number of values in the images whose bookkeeping is timed: 8 MB."""


def _random(network: Network, count: int) -> tuple[Tensor, Tensor]:
    """Images and one-hot targets on the device."""
    generator = rng(0, "speed")
    labels = torch.randint(network.classes, (count,), generator=generator)
    targets = torch.nn.functional.one_hot(labels, network.classes).float()
    return torch.randn(count, *network.shape, generator=generator, dtype=torch.float32).to(network.device), targets.to(
        network.device
    )


def _training(network: Network, recipe: ExpertRecipe, count: int) -> Callable[[], None]:
    """A step that trains on one batch with the training loop of experts, so that its overhead is timed too: it is most
    of the time of a small batch."""
    recipe = recipe.replace(lr=1e-6, batch=count)
    images, targets = _random(network, count)
    split, trainee = Split(images, targets.argmax(1)), Trainee(copy.deepcopy(network.module).to(network.device))
    optimiser = make_optimiser(trainee, recipe, 0)
    return lambda: _discard(train_epoch(trainee, optimiser, split, network.classes, recipe, 0, 0))


def _bookkeeping(network: Network, method: Method, settings: DistillSettings, count: int) -> Callable[[], None]:
    """A step that does everything else in an outer step on `count` images, once it has their derivative."""
    _, targets = _random(network, count)
    images = torch.randn(count, *settings.texture.extent(network.shape), dtype=torch.float32, device=network.device)
    state = DistillState(images, targets, method.replace(learn=("images",)), settings)
    gradient = MetaGradient(images.new_zeros(()), images=torch.zeros_like(images))

    def step() -> None:
        read(state.attempt(gradient))
        state.keep()

    return step


def _logits(network: Network, count: int) -> Callable[[], None]:
    images, _ = _random(network, count)
    trainee = Trainee(copy.deepcopy(network.module).to(network.device))

    def step() -> None:
        with torch.no_grad():
            trainee.logits(images)

    return step


def _unroll(
    network: Network, method: Method, strategy: str, count: int, steps: int, optimiser: StudentOptimiser | None
) -> Callable[[], None]:
    images, targets = _random(network, count)
    model = FlatModel(network.module)
    start, generator = model.flatten().to(network.device), rng(0, "speed")
    goal = Matching((steps,), start[None] + 0.01, torch.ones(1, dtype=torch.float32, device=network.device))
    variables = Variables(images, targets, torch.tensor(1e-6, dtype=torch.float32, device=network.device))

    def step() -> None:
        plan = draw_plan(steps, count, None, strategy, network.shape, generator, network.device)
        inner = InnerLoop(model, plan, method.momentum, optimiser=optimiser)
        method.estimator(inner, start, variables, goal)

    return step


def _features(network: Network, count: int, derivative: bool) -> Callable[[], None]:
    images, _ = _random(network, count)
    model = FlatModel(network.module)
    theta, features_of = model.flatten().to(network.device), engine_of(model).features

    def step() -> None:
        with torch.set_grad_enabled(derivative):
            inputs = images.detach().requires_grad_(derivative)
            features = features_of(theta, inputs)
        if derivative:
            torch.autograd.grad(features.square().sum(), inputs)

    return step


def _class_loss(
    network: Network, loss: Callable[[Tensor, Tensor], Tensor], real: int, synthetic: int
) -> Callable[[], None]:
    model = FlatModel(network.module)
    with torch.no_grad():
        width = model.features(model.flatten(), torch.zeros(1, *network.shape, dtype=torch.float32)).shape[1]
    generator = rng(0, "speed")
    real_features, synthetic_features = (
        torch.randn(count, width, generator=generator, dtype=torch.float32).to(network.device)
        for count in (real, synthetic)
    )

    def step() -> None:
        torch.autograd.grad(loss(real_features, synthetic_features.requires_grad_()), synthetic_features)

    return step


def _augmentation(network: Network, strategy: str, count: int) -> Callable[[], None]:
    (images, _), generator = _random(network, count), rng(0, "speed")
    return lambda: _discard(apply(images, draw(strategy, count, network.shape, generator).to(network.device)))


def _discard(result: object) -> None:
    """Ignore a result."""


def describe_device(device: str, shape: Shape, classes: int, model: str) -> str:
    """Device, engine and threads in one line, with the reason for the choice of `device` auto, and with a remedy if the
    engine is the slow one."""
    resolved = settled_device(device)
    text = f"Device: {resolved}, engine: {Network(model, shape, classes, resolved).engine_text()}"
    if device == resolved:
        return text
    if resolved == "cpu" and torch.backends.mps.is_available():
        return f"{text} (no usable CUDA GPU; mps is available, but is not tested and never chosen)"
    return f"{text} ({AUTO_WORDS[resolved]})"


AUTO_WORDS = {"cpu": "no usable CUDA GPU", "cuda": "--device cpu for the CPU"}
