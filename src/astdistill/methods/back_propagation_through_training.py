"""RaT-BPTT (arXiv 2311.07025) and AT-BPTT++ (its released code): the loss on real images of a network that was trained
on the synthetic ones, differentiated through a window of its training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..autodiff.dispatch import engine_of
from ..data.augmentation import Draw, apply, draw
from ..data.dataset import Dataset
from ..data.synthetic import one_hot
from ..models.flat import FlatModel
from ..runtime.errors import InputError
from ..runtime.seeds import rng, to_device
from ..runtime.shapes import Batch, Images, Params, Scalar, Targets
from .estimators import step_derivatives, walk_back
from .initialisation import UnitNormInit, WeightLabels, of_unit_norm
from .low_rank import ITERATIONS, OVERSAMPLED, InFewDirections, LowRank
from .method import Method
from .outer_step import OuterStep, Setup, StepSettings, StepState, StepWork
from .student_optimisers import Adam
from .unroll import InnerLoop, MetaGradient, Plan, Variables, planned

Norms = Float[Tensor, " T"]
"""One number for each training step."""
TOGETHER = 512
"""Number of real images per forward pass. Their loss is a sum, so it can be computed in groups."""
TINY = 1e-300
"""Lower bound of a norm that is divided by."""
DECAY = 0.9
"""Decay of the running mean of the gradient's norm."""


@dataclass(frozen=True)
class Truncation:
    """How many steps a student takes, and how many of the last are differentiated."""

    steps: int
    window: int


class BackPropagationThroughTraining(OuterStep):
    """L_real(θ_{K+W}) of a new network that takes K steps of Adam on the set, treated as constants, and then W steps
    that are differentiated (RaT-BPTT, arXiv 2311.07025, Algorithm 1)."""

    family: ClassVar[str] = "back-propagation through training"
    loss_name: ClassVar[str] = "loss on real images"
    about: ClassVar[str] = (
        "Each outer step trains a new network on the images and changes them so that its loss on real images falls. "
        "The derivative goes back through a window of its last training steps, and every step places the window "
        "elsewhere, so single losses scatter: an early window ends with a higher loss than a late one."
    )
    unroll: int = Field(default=200, ge=1)
    """T, the largest number of training steps per outer step."""
    window: int = Field(default=60, ge=1)
    """W, the number of last training steps that are differentiated."""
    place: Literal["epoch", "step", "last"] = "epoch"
    """Where the window lies: epoch draws its place for each pass over the real images, step for each outer step, last
    always takes the last W of T steps."""
    batch_real: int = Field(default=5000, ge=1)
    """Real images in the loss of one outer step; all of them if there are fewer."""
    per_class: int | None = Field(default=None, ge=1)
    """Synthetic images (sub-images, with distill.factor) of each class per training step. Default: all."""
    classes_at_once: int | None = Field(default=None, ge=1)
    """Number of classes per training step, drawn for each step. Default: all."""
    inner_lr: float | None = Field(default=1e-3, gt=0)
    """Learning rate of Adam in the training. None takes the set's own η, which can then be learned."""
    clip: float = Field(default=2.0, ge=0)
    """Largest norm of the meta-gradient, as a multiple of the running mean of its norms. 0 means no limit."""
    clip_together: bool = False
    """Apply that limit to images and labels as one vector; otherwise to the images alone."""
    unit_norm: bool = False
    """Scale every image to an L2 norm of 1 after every outer step (a canvas of k × k times the size to k)."""

    @property
    def counts(self) -> str:
        return f"{self.unroll}/{self.window}"

    def with_numbers_of(self, other: OuterStep) -> OuterStep:
        if not isinstance(other, BackPropagationThroughTraining):
            return self
        shared = ("unroll", "window", "batch_real", "per_class", "classes_at_once", "inner_lr")
        return self.replace(**{name: getattr(other, name) for name in shared})

    def check(self, method: Method, settings: StepSettings, epochs: int | None, epochs_of: str) -> None:
        if self.window > self.unroll:
            raise InputError(
                f"A window of {self.window} steps does not fit into {self.unroll} steps of training; choose "
                f"--method.step.window {self.unroll} or less."
            )
        if "lr" in method.learn and self.inner_lr is not None:
            raise InputError(
                f"The learning rate is to be learned, but Adam's is fixed at {self.inner_lr:g}; add "
                f"--method.step.inner-lr none, or leave lr out of what is learned."
            )

    def usual_settings(self, ipc: int) -> Mapping[str, float | str | None]:
        rates = {"lr_img": 1e-3, "lr_targets": 1e-3, "lr_init": 0.01}
        return {"outer_optimiser": "adam", "outer_momentum": 0.9, "targets_momentum": 0.9, **rates}

    def within(self, images: int, classes: int) -> Self:
        return self.replace(batch_real=min(self.batch_real, images))

    def work(self, settings: StepSettings, images: int, classes: int) -> StepWork:
        ipc = images // classes
        images_per_step = min(self.per_class or ipc, ipc) * min(self.classes_at_once or classes, classes)
        batch = images_per_step * settings.texture.samples
        return StepWork(
            training_steps=self.window,
            batch=batch,
            kept=4,
            optimiser=Adam(),
            before=self._prefix,
            trained=self.batch_real,
            trained_at_once=min(self.batch_real, TOGETHER),
        )

    @property
    def _prefix(self) -> float:
        """Average number of training steps per outer step that are not differentiated."""
        return (self.unroll - self.window) / (1 if self.place == "last" else 2)

    def begin(self, setup: Setup, variables: Variables, seed: int) -> StepState:
        return StepState({"norm": variables.images.new_zeros(())}, {"taken": 0})

    def advance(
        self, setup: Setup, variables: Variables, state: StepState, iteration: int, seed: int
    ) -> tuple[MetaGradient, StepState]:
        start = setup.fresh(seed, iteration).to(variables.images.dtype)
        student = variables
        if self.inner_lr is not None:
            student = variables.replace(lr=torch.full_like(variables.lr, self.inner_lr))
        plan = self.plan(setup, len(variables.images), iteration, seed)
        inner = InnerLoop(setup.model, plan, labels=setup.method.labels.kind, optimiser=Adam())
        truncation, state = self.truncation(setup, inner, start, student, state, iteration, seed)
        inner = replace(inner, plan=plan.first(truncation.steps))
        inner, state = self.approximated(inner, start, student, truncation, state, iteration, seed)
        loss = self.real_loss(setup, truncation.steps, iteration, seed)
        derivatives = walk_back(inner, start, student, loss, steps=truncation.window)
        learned = {name: slope for name, slope in derivatives.items() if name in setup.method.learn}
        gradient, norm = self._clipped(MetaGradient(derivatives.loss, **learned), state)
        counters = {**state.counters, "taken": state.counters["taken"] + 1}
        return gradient, StepState({**state.tensors, "norm": norm}, counters)

    def truncation(
        self,
        setup: Setup,
        inner: InnerLoop,
        start: Params,
        variables: Variables,
        state: StepState,
        iteration: int,
        seed: int,
    ) -> tuple[Truncation, StepState]:
        """Return the window of this outer step, and the updated state.

        Args:
            setup: What all outer steps of a run share.
            inner: How a student trains.
            start: θ_0 `[P]`.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and other learned tensors.
            state: The state kept by the previous outer step.
            iteration: The outer step, counted from 0.
            seed: Seed of the run; random draws depend on it and on the outer step.
        """
        prefix = self.unroll - self.window
        if self.place != "last":
            number = {"epoch": self._position_in_pass(setup, iteration)[0], "step": iteration}[self.place]
            prefix = int(torch.randint(prefix + 1, (), generator=rng(seed, "window", number)))
        return Truncation(prefix + self.window, self.window), state

    def approximated(
        self,
        inner: InnerLoop,
        start: Params,
        variables: Variables,
        truncation: Truncation,
        state: StepState,
        iteration: int,
        seed: int,
    ) -> tuple[InnerLoop, StepState]:
        """Return how the student trains in the window, and the updated state. The base class trains exactly; subclasses
        may approximate.

        Args:
            inner: How a student trains, up to the end of the window.
            start: θ_0 `[P]`.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and other learned tensors.
            truncation: Position of the window.
            state: The state kept by the previous outer step, as updated by `truncation`.
            iteration: The outer step, counted from 0.
            seed: Seed of the run; random draws depend on it and on the outer step.
        """
        return inner, state

    def project(self, setup: Setup, learned: Mapping[str, Tensor]) -> None:
        """Scale images back to unit norm if `unit_norm` is set; clamp negative weights of classes to 0."""
        if self.unit_norm:
            learned["images"].copy_(of_unit_norm(learned["images"], setup.settings.texture))
        if setup.method.labels.kind == "weights":
            learned["targets"].clamp_(min=0)

    def plan(self, setup: Setup, images: int, iteration: int, seed: int) -> Plan:
        """The plan of T training steps on a set of `images` images, grouped by class.

        Args:
            setup: What all outer steps of a run share.
            images: N, images of the set.
            iteration: The outer step, counted from 0.
            seed: Seed of the run; random draws depend on it and on the outer step.
        """
        generator, classes = rng(seed, "plan", iteration), len(setup.dataset.classes)
        ipc = images // classes
        per_class, class_count = min(self.per_class or ipc, ipc), min(self.classes_at_once or classes, classes)
        indices = torch.arange(images).expand(self.unroll, images)
        if per_class < ipc or class_count < classes:
            labels = torch.rand(self.unroll, classes, generator=generator, dtype=torch.float32).argsort(dim=1)[
                :, :class_count
            ]
            members = torch.rand(self.unroll, class_count, ipc, generator=generator, dtype=torch.float32).argsort(
                dim=2
            )[:, :, :per_class]
            indices = (labels[:, :, None] * ipc + members).flatten(1)
        settings, data = setup.settings, setup.dataset
        return planned(indices, settings.augmentation, data.shape, generator, data.device, settings.texture)

    def _position_in_pass(self, setup: Setup, iteration: int) -> tuple[int, int]:
        """Return the number of completed passes over the real images, and the index of this outer step in the current
        pass."""
        return divmod(iteration, max(1, len(setup.dataset.train) // self.batch_real))

    def real_loss(self, setup: Setup, steps: int, iteration: int, seed: int) -> RealLoss:
        """The loss on the real images of this outer step. Each pass is shuffled; a remainder too small for a batch is
        dropped.

        Args:
            setup: What all outer steps of a run share.
            steps: Number of steps that the student takes.
            iteration: The outer step, counted from 0.
            seed: Seed of the run; random draws depend on it and on the outer step.
        """
        data, (epoch, number) = setup.dataset, self._position_in_pass(setup, iteration)
        order = torch.randperm(len(data.train), generator=rng(seed, "real", epoch))
        rows = order[number * self.batch_real : (number + 1) * self.batch_real]
        drawn = draw(setup.settings.augmentation, len(rows), data.shape, rng(seed, "augmentation", iteration))
        return RealLoss(setup.model, data, to_device(rows, data.device), drawn.to(data.device), (steps,))

    def _clipped(self, gradient: MetaGradient, state: StepState) -> tuple[MetaGradient, Scalar]:
        """Return the gradient, scaled down to at most `clip` times the running mean of its norms, and the updated mean.
        The mean includes the norm of this gradient and starts with the first one."""
        names = [name for name in ("images", "targets")[: 1 + self.clip_together] if name in gradient]
        norm = torch.stack([gradient.loss.new_zeros(()), *(gradient[name].norm() for name in names)]).norm()
        mean = norm
        if state.counters["taken"]:
            mean = DECAY * state.tensors["norm"] + (1 - DECAY) * norm
        if not self.clip:
            return gradient, mean
        share = (self.clip * mean / norm.clamp_min(torch.finfo(norm.dtype).tiny)).clamp_max(1.0)
        return gradient.replace(**{name: share * gradient[name] for name in names}), mean


@dataclass(frozen=True)
class RealLoss:
    """The mean cross-entropy, on real images, of the student after `at` steps. The images are the training images at
    `rows`, under one augmentation; the engine computes the derivative, one group at a time."""

    model: FlatModel
    data: Dataset
    rows: Int[Tensor, " B"]
    drawn: Draw
    at: tuple[int, ...]

    def __call__(self, students: Sequence[Params]) -> Scalar:
        parts = self.groups(students[0])
        return sum(
            (share * cross_entropy(self.model(students[0], images), targets) for images, targets, share in parts),
            start=students[0].new_zeros(()),
        )

    def cotangents(self, students: Mapping[int, Params]) -> tuple[Scalar, dict[int, Params]]:
        """The loss and its derivative with respect to the student, without a graph."""
        (last,) = self.at
        theta, engine = students[last], engine_of(self.model)
        loss, slope = theta.new_zeros(()), torch.zeros_like(theta)
        for images, targets, share in self.groups(theta):
            batch_gradient = engine.gradient(theta, images, targets)
            loss += share * batch_gradient.loss
            slope.add_(batch_gradient.theta, alpha=share)
        return loss, {last: slope}

    def groups(self, theta: Params) -> Iterator[tuple[Batch, Targets, float]]:
        """Yield augmented images and one-hot targets in the dtype of θ, one group at a time, with its share of all
        images."""
        split, classes = self.data.train, len(self.data.classes)
        for part in torch.arange(len(self.rows), device=self.rows.device).split(TOGETHER):
            rows = self.rows[part]
            drawn = Draw(self.drawn.op, {name: number[part] for name, number in self.drawn.numbers.items()})
            images = apply(split.batch(rows).to(theta.dtype), drawn)
            yield images, one_hot(split.labels[rows], classes).to(theta.dtype), len(rows) / len(self.rows)


class AdaptiveTruncation(BackPropagationThroughTraining):
    """The last step of the window is drawn by the size of the gradients, and the length of the window follows from
    their change (AT-BPTT++, its released code; successor of AT-BPTT, arXiv 2510.04838).

    A probe takes T steps from the same θ_0 on the same batches: G_t = ‖∇ℓ‖, V_t = |G_t − G_{t−1}|, V_0 = 0. z(·) is
    standardised over t. β is the mean of G, scaled linearly so that its smallest value over all outer steps so far is
    −1 and its largest 1 (in the first step β = 1):

        π = softmax(log π_ref + β z(G)/λ),  n ~ π,  π_ref ← (1 − ρ) π_ref + ρ π,
        W = clip(round(W_0 − R + 2 R σ(z(V)_n/τ)), max(1, W_0 − R), min(T, W_0 + R)), at most n + 1,

    and the window is the last W of the first n + 1 steps.
    """

    about: ClassVar[str] = (
        "Each outer step trains a new network on the images and changes them so that its loss on real images falls. "
        "The derivative goes back through a window of its training steps. A first pass measures the gradients of all "
        "steps; where the window lies and how long it is, is drawn by their size and their change, so single losses "
        "scatter: an early window ends with a higher loss than a late one."
    )
    unroll: int = Field(default=32, ge=1)
    window: int = Field(default=16, ge=1)
    """W₀, the average number of training steps that are differentiated."""
    window_range: int = Field(default=8, ge=0)
    """R, the largest deviation of the window's length from W₀."""
    temperature: float = Field(default=1.0, gt=0)
    """λ, the temperature of the distribution of places; larger values make it depend less on the gradients."""
    window_temperature: float = Field(default=1.0, gt=0)
    """τ, the temperature of the window's length; larger values make it depend less on the change of the gradients."""
    reference_rate: float = Field(default=0.05, ge=0, le=1)
    """ρ, the update rate of the reference distribution of places, from 0 to 1."""
    curvature_rank: int = Field(default=0, ge=0)
    """Rank of an approximation of the curvature of the training loss, in whose directions alone the student trains
    inside the window (CR-LRHA; published: 32). 0 means none: the whole gradient."""
    curvature_change: float = Field(default=0.2, ge=0)
    """δ: the approximation is fitted again when the gradient's norm at the end of the window has changed by this
    fraction or more. No effect if curvature_rank is 0."""
    curvature_every: int = Field(default=20, ge=1)
    """Outer steps after which the approximation is fitted again in any case. No effect if curvature_rank is 0."""
    clip_together: bool = True
    unit_norm: bool = True

    def unread(self) -> tuple[str, ...]:
        idle = () if self.curvature_rank else ("curvature_change", "curvature_every")
        return ("place", *idle)

    @property
    def counts(self) -> str:
        return f"{self.unroll}/{self.window}±{self.window_range}"

    @property
    def _prefix(self) -> float:
        return self.unroll + (self.unroll - self.window) / 2

    def work(self, settings: StepSettings, images: int, classes: int) -> StepWork:
        longest = min(self.unroll, self.window + self.window_range)
        # A student first takes all steps; its gradients determine the window.
        # The fit of the curvature takes another prefix, and products that take 8/3 times as long as a gradient each.
        fits = bool(self.curvature_rank) / self.curvature_every
        fitted = fits * (self._prefix + 8 / 3 * (2 + ITERATIONS) * (self.curvature_rank + OVERSAMPLED))
        base = super().work(settings, images, classes)
        return replace(
            base,
            training_steps=longest,
            before=self._prefix + self.unroll + fitted,
            saved=2 * self.curvature_rank,
            kept_besides=self._extra_vectors(base.kept * longest),
        )

    def _extra_vectors(self, window_vectors: int) -> int:
        """Number of vectors besides the `window_vectors` of the window: the previous approximation and the new one, or
        the previous one and the temporary vectors of the fit, which runs before the window is differentiated."""
        if not self.curvature_rank:
            return 0
        factors = 2 * self.curvature_rank
        return max(2 * factors, factors + LowRank.peak_vectors(self.curvature_rank) - window_vectors)

    def begin(self, setup: Setup, variables: Variables, seed: int) -> StepState:
        initial, images = super().begin(setup, variables, seed), variables.images
        reference = images.new_full((self.unroll,), 1 / self.unroll, dtype=torch.float64)
        bounds = images.new_zeros(2, dtype=torch.float64)
        return StepState(
            {**initial.tensors, "reference": reference, "bounds": bounds, **self._empty_curvature(setup, images)},
            initial.counters,
        )

    def _empty_curvature(self, setup: Setup, images: Images) -> dict[str, Tensor]:
        """Zeros for the approximation and for the numbers that decide when it is fitted; empty without
        `curvature_rank`."""
        if not self.curvature_rank:
            return {}
        size = setup.model.size
        rank = min(self.curvature_rank, size)
        sides = {name: images.new_zeros(size, rank) for name in ("left", "right")}
        norms = images.new_zeros(self.unroll, dtype=torch.float64)
        return {**sides, "values": images.new_zeros(rank), "norms": norms, "change": norms.new_zeros(())}

    def truncation(
        self,
        setup: Setup,
        inner: InnerLoop,
        start: Params,
        variables: Variables,
        state: StepState,
        iteration: int,
        seed: int,
    ) -> tuple[Truncation, StepState]:
        norms = torch.stack([taken.gradient.norm() for taken in inner.steps(start, variables)]).double()
        probabilities, bounds = state.tensors["reference"], state.tensors["bounds"]
        if norms.isfinite().all():
            probabilities, bounds = self.places(norms, probabilities, bounds if state.counters["taken"] else None)
        else:  # training diverged: the norms are ignored, and the step filter judges the step by its loss
            norms = torch.zeros_like(norms)
        reference = (1 - self.reference_rate) * state.tensors["reference"] + self.reference_rate * probabilities
        chosen = int(torch.multinomial(probabilities.cpu(), 1, generator=rng(seed, "window", iteration)))
        tensors = {**state.tensors, "reference": reference, "bounds": bounds}
        if self.curvature_rank:
            previous_norm = norms[chosen - 1] if chosen else norms[chosen]
            change = (norms[chosen] - previous_norm).abs() / state.tensors["norms"][chosen].clamp_min(TINY)
            tensors |= {"norms": norms, "change": change}
        return self.at(chosen, norms), StepState(tensors, state.counters)

    def approximated(
        self,
        inner: InnerLoop,
        start: Params,
        variables: Variables,
        truncation: Truncation,
        state: StepState,
        iteration: int,
        seed: int,
    ) -> tuple[InnerLoop, StepState]:
        if not self.curvature_rank:
            return inner, state
        first, taken, tensors = truncation.steps - truncation.window, state.counters["taken"], state.tensors
        if taken % self.curvature_every == 0 or float(tensors["change"]) >= self.curvature_change:
            theta = start
            for step in islice(inner.steps(start, variables), first):
                theta = step.theta
            product = curvature_of(inner, theta, variables, first)
            fitted = LowRank.fitted(product, self.curvature_rank, theta, rng(seed, "curvature", iteration))
            tensors = {**tensors, "left": fitted.left, "values": fitted.values, "right": fitted.right}
        curvature = LowRank(tensors["left"], tensors["values"], tensors["right"])
        moves = InFewDirections(inner.moves, curvature, first)
        return replace(inner, optimiser=moves), StepState(tensors, state.counters)

    def places(self, norms: Norms, reference: Norms, bounds: Tensor | None) -> tuple[Norms, Tensor]:
        """π, and the smallest and the largest mean of G so far.

        Args:
            norms: G `[T]`, the norm of the gradient of each step.
            reference: π_ref `[T]`.
            bounds: The smallest and the largest mean of G before this step, `[2]`. None: this step is the first.
        """
        mean = norms.mean()
        if bounds is None:
            bounds = mean.expand(2)
        bounds = torch.stack([bounds[0].minimum(mean), bounds[1].maximum(mean)])
        position = torch.where(bounds[1] > bounds[0], (mean - bounds[0]) / (bounds[1] - bounds[0]), 1.0)
        weight = (2 * position - 1) / self.temperature
        return (reference.log() + weight * standardised(norms)).softmax(dim=0), bounds

    def at(self, step: int, norms: Norms) -> Truncation:
        """The window that ends with step number `step`, counted from 0.

        Args:
            step: The last step of the window, counted from 0.
            norms: G `[T]`, the norm of the gradient of each step.
        """
        changes = torch.cat([norms.new_zeros(1), norms.diff().abs()])
        share = float((standardised(changes)[step] / self.window_temperature).sigmoid())
        length = round(self.window - self.window_range + 2 * self.window_range * share)
        length = min(max(length, 1, self.window - self.window_range), self.unroll, self.window + self.window_range)
        return Truncation(step + 1, min(length, step + 1))


def curvature_of(inner: InnerLoop, theta: Params, variables: Variables, step: int) -> Callable[[Params], Params]:
    """The map from v to H v, with H the second derivative in θ of the training loss of one step.

    Args:
        inner: How a student trains.
        theta: θ `[P]`.
        variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and other learned tensors.
        step: The step whose batch is used, counted from 0.
    """
    engine = engine_of(inner.model)
    with torch.no_grad():
        images, targets = inner.batch(step, variables)

    def product(direction: Params) -> Params:
        return step_derivatives(inner, engine, theta, direction, images, targets).theta

    return product


def standardised(values: Norms) -> Norms:
    """Subtract the mean and divide by the standard deviation (of n, not n − 1); zeros if all values are equal."""
    spread = values.std(correction=0)
    return torch.where(spread > 0, (values - values.mean()) / spread, torch.zeros_like(values))


RAT_BPTT = Method(
    name="rat-bptt",
    paper="RaT-BPTT (Feng et al., Embarrassingly Simple Dataset Distillation, arXiv 2311.07025), Algorithm 1",
    step=BackPropagationThroughTraining(),
    expert=None,
    init=UnitNormInit(),
    learn=("images",),
)
"""Hard labels, as published for CIFAR-10; elsewhere labels are learned, as in `AT_BPTT`."""
AT_BPTT = Method(
    name="at-bptt",
    paper="AT-BPTT++ (after AT-BPTT, arXiv 2510.04838): Algorithm of its released code, aether-hang/at-bptt-plus",
    step=AdaptiveTruncation(),
    expert=None,
    init=UnitNormInit(),
    labels=WeightLabels(),
    learn=("images", "targets"),
)
"""Without the approximation of curvature in 32 dimensions (CR-LRHA, `curvature_rank`), which the released code can
switch off too."""
