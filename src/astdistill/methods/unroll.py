"""The inner loop: how a student trains on the synthetic set, and the plan that holds all its random numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..autodiff.dispatch import engine_of
from ..data.augmentation import Draw, apply, draw, merged
from ..data.synthetic import LabelKind
from ..data.textures import ORDINARY, Crops, TextureSpec
from ..runtime.seeds import to_device
from ..runtime.shapes import Batch, Images, Logits, Params, Scalar, Targets
from .student_optimisers import Moments, Sgd, StudentOptimiser

AT_ONCE, AT_ONCE_CUDA = 2**20, 2**24
"""Pixel values that are augmented together: 4 MB on a CPU, 64 MB on a GPU."""


@dataclass(frozen=True)
class Plan:
    """Which images each inner step sees, `[T, B]`, which part of each, and how it is augmented. The same plan gives the
    same bits."""

    indices: Int[Tensor, "T B"] | tuple[Int[Tensor, " B"], ...]
    """A tuple where steps see different numbers of images."""
    augmentation: tuple[Draw, ...]
    """The augmentation drawn for each step."""
    crops: tuple[Crops, ...]
    """Which part of each canvas is seen in each step; whole images where there are no textures."""
    at_once: int | None = None
    """Pixel values that are augmented together; None means AT_ONCE, or AT_ONCE_CUDA on a GPU. Results do not depend on
    it."""

    @property
    def steps(self) -> int:
        """T, the number of inner steps."""
        return len(self.indices)

    def first(self, steps: int) -> Plan:
        """The plan of the first `steps` steps only.

        Args:
            steps: How many, up to T.
        """
        return replace(
            self, indices=self.indices[:steps], augmentation=self.augmentation[:steps], crops=self.crops[:steps]
        )

    def rows(self, steps: range) -> Int[Tensor, "S B"]:
        """Indices of the images of consecutive steps that have the same batch size.

        Args:
            steps: Consecutive steps, counted from 0.

        Returns:
            Indices `[S, B]`.
        """
        chosen = self.indices[steps.start : steps.stop]
        return chosen if isinstance(chosen, Tensor) else torch.stack(chosen)

    def augment(self, step: int, images: Batch) -> Batch:
        """A_i(images): the crops, and then the augmentation, drawn for `step`.

        Args:
            step: Index of the step, counted from 0.
            images: `[B, C, H, W]`, those of the step.
        """
        return apply(self.crops[step](images), self.augmentation[step])

    def augment_steps(self, steps: range, images: Images) -> list[Batch]:
        """A_i(images[i − steps.start]) for each step i of `steps`, where `images` are `[S, B, C, H, W]`. Differentiable
        in the images.

        The values are those of `augment`, step by step. Steps that drew the same operation go through it as one batch,
        since for a few images most of the time of an operation is the overhead of calling it.

        Args:
            steps: Consecutive steps, S of them, counted from 0.
            images: `[S, B, C, H, W]`.
        """
        cropped = [self.crops[step](batch) for step, batch in zip(steps, images.unbind(0), strict=True)]
        by_op: dict[str, list[int]] = {}
        for index, step in enumerate(steps):
            by_op.setdefault(self.augmentation[step].op, []).append(index)
        batches = list(cropped)
        by_op.pop("none", None)
        for indices in by_op.values():
            augmented = apply(
                torch.cat([cropped[index] for index in indices]),
                merged([self.augmentation[steps[index]] for index in indices]),
            )
            for index, batch in zip(indices, augmented.split(images.shape[1]), strict=True):
                batches[index] = batch
        return batches

    def portions(self, steps: range, images: Images) -> list[range]:
        """Split `steps` into the longest runs that may be augmented together, so that their images take a bounded
        amount of memory. All steps of a run have the same batch size.

        Args:
            steps: Consecutive steps, counted from 0.
            images: X `[N, C, H, W]`, for the size of an image and its device.
        """
        limit = self.at_once or (AT_ONCE_CUDA if images.is_cuda else AT_ONCE)
        ranges: list[range] = []
        for size, group in itertools.groupby(steps, key=lambda step: len(self.indices[step])):
            group_steps, limit_per_run = list(group), max(1, limit // (size * images[0].numel()))
            same_size = range(group_steps[0], group_steps[-1] + 1)
            ranges += [same_size[first : first + limit_per_run] for first in range(0, len(same_size), limit_per_run)]
        return ranges


def draw_plan(
    steps: int,
    count: int,
    batch: int | None,
    strategy: str,
    shape: tuple[int, int, int],
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    texture: TextureSpec = ORDINARY,
    released: bool = False,
) -> Plan:
    """A plan of `steps` batches out of `count` synthetic images.

    The whole set is used at every step if it fits into `batch`. Otherwise batches are cut from concatenated reshuffled
    passes, so that every image is seen equally often and every batch has the same size, also if `batch` does not divide
    `count`. For textures each canvas of a batch is sampled `samples` times, and B counts the samples.

    Args:
        steps: T, the number of inner steps.
        count: N, images of the synthetic set.
        batch: Images of one step. None: all of them.
        strategy: DSA operations joined by underscores, of which one is drawn for each step; "" for none.
        shape: What a network sees of an image: channels, height, width in pixels.
        generator: CPU generator of all random draws.
        device: Device of the plan's tensors.
        texture: The layout of the images; ordinary images by default.
        released: Cut every pass separately; if `batch` does not divide `count`, its first batch is the remainder, as in
            the released code, which cuts a pass from the front and takes the pieces from the end.

    Returns:
        The plan, with indices `[T, B]`.
    """
    size = count if batch is None else min(batch, count)
    if size == count:
        indices = torch.arange(count).expand(steps, count)
    elif released and count % size:
        indices = _chunks(steps, count, size, generator)
    else:
        passes = -(-steps * size // count)
        stream = torch.cat([torch.randperm(count, generator=generator) for _ in range(passes)])
        indices = stream[: steps * size].view(steps, size)
    return planned(indices, strategy, shape, generator, device, texture)


def planned(
    indices: Int[Tensor, "T B"] | tuple[Int[Tensor, " B"], ...],
    strategy: str,
    shape: tuple[int, int, int],
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    texture: TextureSpec = ORDINARY,
) -> Plan:
    """The plan of steps that use the images at `indices` (on the CPU), with crops and augmentation drawn for each
    step."""
    indices = texture.repeated(indices) if isinstance(indices, Tensor) else tuple(map(texture.repeated, indices))
    crops = tuple(texture.draw(len(row), (shape[1], shape[2]), generator).to(device) for row in indices)
    draws = tuple(draw(strategy, len(row), shape, generator).to(device) for row in indices)
    if isinstance(indices, Tensor):
        return Plan(to_device(indices, device), draws, crops)
    return Plan(tuple(to_device(row, device) for row in indices), draws, crops)


def _chunks(steps: int, count: int, size: int, generator: torch.Generator) -> tuple[Int[Tensor, " B"], ...]:
    """`steps` batches of reshuffled passes over `count` images, the short batch first in each pass."""
    passes = -(-steps // -(-count // size))
    chunked_passes = [torch.randperm(count, generator=generator).split(size) for _ in range(passes)]
    return tuple(chunk for chunks in chunked_passes for chunk in reversed(chunks))[:steps]


class NamedTensors(Mapping[str, Tensor]):
    """Tensors by name. `images`, `targets` and `lr` are attributes too. A tensor that was not given is missing from
    both.

    Args:
        images: X, `[N, C, H, W]`, or its derivative. None: not given; the same holds for the others.
        targets: Y, `[N, K]`, or its derivative.
        lr: η, a scalar, or its derivative.
        **more: Further tensors by name.
    """

    def __init__(
        self, images: Tensor | None = None, targets: Tensor | None = None, lr: Tensor | None = None, **more: Tensor
    ) -> None:
        tensors = {"images": images, "targets": targets, "lr": lr, **more}
        self._tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def images(self) -> Images:
        return self["images"]

    @property
    def targets(self) -> Targets:
        return self["targets"]

    @property
    def lr(self) -> Scalar:
        return self["lr"]

    def replace(self, **changes: Tensor) -> Self:
        """A copy with some tensors changed or added."""
        return type(self)(**{**self, **changes})

    def clone(self) -> Self:
        """A copy with its own memory and without a graph."""
        return self.replace(**{name: tensor.detach().clone() for name, tensor in self.items()})

    def to(self, device: str | torch.device) -> Self:
        """A copy on another device.

        Args:
            device: Target device, such as "cpu" or "cuda".
        """
        return self.replace(**{name: tensor.to(device) for name, tensor in self.items()})


class Variables(NamedTensors):
    """The tensors with respect to which a meta-gradient is taken, by name: X `[N, C, H, W]` (k H and k W for textures)
    as `images`, Y `[N, K]` as `targets`, η as `lr`, and any others that the outer step of a method learns.

    Args:
        images: X, `[N, C, H, W]`. None: not given; the same holds for the others.
        targets: Y, `[N, K]`.
        lr: η, a scalar.
        **more: Further tensors by name, as returned by the outer step's `further`.
    """


class MetaGradient(NamedTensors):
    """The objective L and its derivatives with respect to `Variables`, by their names and in their shapes, without a
    graph.

    L does not depend on a variable whose name is missing.

    Args:
        loss: L, a scalar.
        images: dL/dX, `[N, C, H, W]`. None: L does not depend on it; the same holds for the others.
        targets: dL/dY, `[N, K]`.
        lr: dL/dη, a scalar.
        **more: Derivatives with respect to further variables, by name.
    """

    def __init__(
        self,
        loss: Scalar,
        images: Tensor | None = None,
        targets: Tensor | None = None,
        lr: Tensor | None = None,
        **more: Tensor,
    ) -> None:
        super().__init__(images, targets, lr, **more)
        self.loss = loss

    def replace(self, **changes: Tensor) -> Self:
        """A copy with some of the loss and derivatives changed or added.

        Args:
            **changes: Tensors by name, among them `loss`.
        """
        return type(self)(**{"loss": self.loss, **self, **changes})

    def to(self, device: str | torch.device) -> MetaGradient:
        """The loss and its derivatives on another device.

        Args:
            device: Target device, such as "cpu" or "cuda".
        """
        return super().to(device).replace(loss=self.loss.to(device))

    @staticmethod
    def mean(parts: Sequence[MetaGradient]) -> MetaGradient:
        """The mean of several gradients, tensor by tensor; the mean of one is bitwise that one.

        Args:
            parts: One or more gradients. A derivative that some of them lack counts as zero there.
        """
        columns = {"loss": [part.loss for part in parts]}
        for name in dict.fromkeys(name for part in parts for name in part):
            zero = torch.zeros_like(next(part[name] for part in parts if name in part))
            columns[name] = [part.get(name, zero) for part in parts]
        return MetaGradient(**{name: torch.stack(column).mean(dim=0) for name, column in columns.items()})


class StepTaken(NamedTuple):
    """One inner step: its index, the gradient, the moments before it, and θ and the moments after it."""

    step: int
    gradient: Params
    before: Moments
    theta: Params
    moments: Moments


@dataclass(frozen=True)
class StudentTrajectory:
    """The kept parameters of one student: θ_i by the number i of steps that led to it, each `[P]`."""

    students: dict[int, Params]
    kept: dict[int, Moments]
    """What the optimiser keeps of each step, from the first requested step on."""
    before: Moments
    """The optimiser's moments before that step."""


@dataclass(frozen=True)
class InnerLoop:
    """T steps of training on the synthetic set, by SGD with momentum (docs/method.md, section 1, step 2; MTT, arXiv
    2203.11932, Algorithm 1) unless `optimiser` names another.

        v_{i+1} = μ v_i + ∇_θ w·ℓ(θ_i; A_i(X[b_i]), Y[b_i]),   θ_{i+1} = θ_i − η v_{i+1},   v_0 = 0

    `model` maps (θ, images) to logits, `weight` is AST's balancing factor w (1 in MTT), `labels` says whether targets
    are distributions ("hard"), logits of distributions ("soft") or weights of the classes ("weights").
    """

    model: Callable[[Params, Batch], Logits]
    """(θ `[P]`, images `[B, C, H, W]`) to logits `[B, K]`."""
    plan: Plan
    """The images of each step, and their augmentation."""
    momentum: float = 0.0
    """μ of SGD."""
    weight: float = 1.0
    """w, the factor on the loss."""
    labels: LabelKind = "hard"
    """What targets are: "hard", "soft" or "weights"."""
    optimiser: StudentOptimiser | None = None
    """The student's optimiser; None means SGD with `momentum`."""

    @property
    def moves(self) -> StudentOptimiser:
        """The student's optimiser."""
        return self.optimiser or Sgd(self.momentum)

    def loss(self, theta: Params, images: Batch, targets: Targets) -> Scalar:
        """w·ℓ(θ; x, y) on augmented images x: cross-entropy, averaged over the batch.

        Args:
            theta: θ `[P]`, on the device of the images.
            images: x `[B, C, H, W]`.
            targets: y `[B, K]`.
        """
        return self.weight * cross_entropy(self.model(theta, images), self.probabilities(targets))

    def batch(self, step: int, variables: Variables) -> tuple[Batch, Targets]:
        """A_i(X[b_i]) and Y[b_i].

        Args:
            step: i, counted from 0.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and other learned tensors.
        """
        chosen = self.plan.indices[step]
        return self.plan.augment(step, variables.images[chosen]), variables.targets[chosen]

    def _batches(self, variables: Variables) -> Iterator[tuple[int, Batch, Targets]]:
        """Yield every step with its augmented images and its targets, as in `batch`, without a graph."""
        plan = self.plan
        for steps in plan.portions(range(plan.steps), variables.images):
            with torch.no_grad():
                augmented = plan.augment_steps(steps, variables.images[plan.rows(steps)])
            for step, images in zip(steps, augmented, strict=True):
                yield step, images, variables.targets[plan.indices[step]].detach()

    def probabilities(self, targets: Targets) -> Targets:
        """The distributions, or weights, that targets represent.

        Args:
            targets: `[B, K]`.
        """
        return targets.softmax(dim=1) if self.labels == "soft" else targets

    def steps(self, start: Params, variables: Variables) -> Iterator[StepTaken]:
        """Yield every step, computed without a graph; nothing is stored.

        Args:
            start: θ_0 `[P]`.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and other learned tensors.
        """
        engine, moves, theta = engine_of(self.model), self.moves, start.detach()
        before, lr = moves.begin(theta), variables.lr.detach()
        for step, images, targets in self._batches(variables):
            gradient = self.weight * engine.gradient(theta, images, self.probabilities(targets)).theta
            theta, moments = moves.step(step, theta, before, gradient, lr)
            yield StepTaken(step, gradient, before, theta, moments)
            before = moments

    def trajectory(
        self, start: Params, variables: Variables, first: int = 0, read: Collection[int] = ()
    ) -> StudentTrajectory:
        """The students from θ_first on and those of the steps `read`, and what the optimiser keeps of each step from
        `first` on. Computed without a graph; nothing else is kept of earlier steps.

        Args:
            start: θ_0 `[P]`.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and other learned tensors.
            first: The first step that is kept, counted from 0.
            read: Numbers of further students to keep, each 0 … T.
        """
        moves = self.moves
        students, kept_moments, before = {0: start.detach()}, {}, moves.begin(start.detach())
        for taken in self.steps(start, variables):
            if taken.step == first:
                before = taken.before
            if taken.step >= first:
                kept_moments[taken.step] = moves.kept(taken.moments, taken.gradient)
            if taken.step + 1 >= first or taken.step + 1 in read:
                students[taken.step + 1] = taken.theta
        return StudentTrajectory(students, kept_moments, before)
