"""Train one fresh network on a set of labelled images, and test it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.functional import softmax

from ..autodiff.training import Confusion, Trainee, accuracy, confusion
from ..data.augmentation import apply, cut_and_mixed, draw
from ..data.dataset import Split
from ..data.synthetic import SyntheticSet, one_hot
from ..data.textures import ORDINARY, TextureSpec
from ..runtime.errors import InputError
from ..runtime.seeds import Draws, to_device
from ..runtime.shapes import Batch, Images, Targets
from .protocol import EvalRecipe
from .teacher import Teacher


class Examples(ABC):
    """The training images of one network, their learning rate, and their texture."""

    lr: float
    texture: TextureSpec = ORDINARY
    teacher: Teacher | None = None
    """The network that labels the training batches, where the recipe has a temperature."""

    @property
    def images_per_epoch(self) -> int:
        """Images that a network sees in one epoch."""
        return len(self) * self.texture.samples

    @property
    @abstractmethod
    def classes(self) -> int:
        """K."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batches(self, size: int, order: Tensor) -> Iterator[tuple[Batch, Targets]]:
        """Images and distributions in the order of the row numbers `order` (on the CPU), `size` at a time, each once
        for every sample."""


@dataclass(frozen=True)
class TensorExamples(Examples):
    """Images `[N, C, H, W]`, or canvases of `texture`, and distributions `[N, K]` on one device."""

    images: Images
    targets: Targets
    lr: float
    texture: TextureSpec = ORDINARY
    teacher: Teacher | None = None

    @staticmethod
    def of(
        synthetic: SyntheticSet, lr: float | None, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> TensorExamples:
        """The images and targets of a distilled set, each sub-image of a slot as one image, with the learning rate `lr`
        or, for None, that of the set. Raises InputError for a rate that is not positive."""
        if lr is None:
            lr = float(synthetic.lr)
        if not lr > 0:
            raise InputError(
                f"The set's learned learning rate is {lr:g}, with which no network trains; give the recipe a positive "
                f"lr."
            )
        synthetic = synthetic.decoded()
        images, targets = (tensor.detach().to(device, dtype) for tensor in (synthetic.images, synthetic.probabilities))
        return TensorExamples(images, targets, lr, synthetic.texture)

    @property
    def classes(self) -> int:
        return self.targets.shape[1]

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int, order: Tensor) -> Iterator[tuple[Batch, Targets]]:
        return (
            (self.images[rows], self.targets[rows])
            for rows in map(self.texture.repeated, to_device(order, self.images.device).split(size))
        )


@dataclass(frozen=True)
class RealExamples(Examples):
    """Any number of real images, in memory or on disk, with labels below `labels`."""

    split: Split
    labels: int
    lr: float
    teacher: Teacher | None = None

    @property
    def classes(self) -> int:
        return self.labels

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, size: int, order: Tensor) -> Iterator[tuple[Batch, Targets]]:
        return ((images, one_hot(labels, self.labels)) for images, labels in self.split.batches(size, order))


MOST_CONFUSED = 100
"""The largest number of classes for which a confusion matrix is kept: 10,000 counts per network."""


@dataclass(frozen=True)
class NetworkResult:
    """One trained network: accuracies in percent. `best` is None unless the recipe checks; it was chosen on the tested
    images."""

    final: float
    best: float | None = None
    diverged: bool = False
    by_class: tuple[float | None, ...] | None = None
    """Final accuracy on the images of each class, None for a class without images; None where it was not counted."""
    confusion: tuple[tuple[int, ...], ...] | None = None
    """Tested images of each class (row) by the predicted class; None where it was not counted, or above 100
    classes."""
    by_steps: tuple[float, ...] | None = None
    """Accuracy after each of the recipe's numbers of steps; None where it counts epochs."""


def train_network(
    network: nn.Module,
    examples: Examples,
    recipe: EvalRecipe,
    tested: Split,
    generator: Callable[[int], torch.Generator],
    on_epoch: Callable[[], None] = lambda: None,
    draws: Draws | None = None,
) -> NetworkResult:
    """The accuracies on `tested` of `network`, trained in place on `examples` under `recipe` by `train_epochs`.

    A loss that is not finite sets `diverged`; such a network is tested like any other. `draws` are the random numbers
    of a network that draws some.
    """
    trainee, best = Trainee(network, temperature=recipe.temperature or 1.0, draws=draws), None
    # One running sum instead of a check at every step: a non-finite term stays visible in it, and an accelerator need
    # not synchronise.
    total = torch.zeros((), dtype=torch.float32, device=trainee.theta.device)
    recipe, tests = recipe.for_images(len(examples)), Tests(recipe.steps[:-1], lambda: accuracy(trainee.logits, tested))
    for epoch, losses in enumerate(train_epochs(trainee, examples, recipe, generator, tests), start=1):
        total = total + losses
        if recipe.checks_after(epoch):
            best = max(best or 0.0, accuracy(trainee.logits, tested))
        on_epoch()
    counts = confusion(trainee.logits, tested, examples.classes)
    final, by_steps = 100 * float(counts.trace()) / len(tested), None
    if recipe.check_every:
        best = max(best or 0.0, final)
    if recipe.steps:
        by_steps = (*tests.accuracies, final)
        best = max(by_steps)
    matrix = None
    if len(counts) <= MOST_CONFUSED:
        matrix = tuple(map(tuple, counts.tolist()))
    return NetworkResult(final, best, not bool(total.isfinite()), _by_class(counts), matrix, by_steps)


class Tests:
    """Tests a network after some of its training steps; call it after every step."""

    def __init__(self, after: tuple[int, ...], test: Callable[[], float]) -> None:
        self.accuracies: list[float] = []
        self._after, self._test, self._steps = after, test, 0

    def __call__(self) -> None:
        self._steps += 1
        if self._steps in self._after:
            self.accuracies.append(self._test())


OPTIMISERS: dict[str, Callable[[Tensor, float, float, float], torch.optim.Optimizer]] = {
    "sgd": lambda theta, lr, momentum, decay: torch.optim.SGD([theta], lr=lr, momentum=momentum, weight_decay=decay),
    "adam": lambda theta, lr, momentum, decay: torch.optim.Adam(
        [theta], lr=lr, betas=(momentum, 0.999), weight_decay=decay
    ),
    "adamw": lambda theta, lr, momentum, decay: torch.optim.AdamW(
        [theta], lr=lr, betas=(momentum, 0.999), weight_decay=decay
    ),
}
"""Constructors of the optimisers by their name in a recipe: (θ, learning rate, momentum, weight decay)."""


def train_epochs(
    trainee: Trainee,
    examples: Examples,
    recipe: EvalRecipe,
    generator: Callable[[int], torch.Generator],
    on_step: Callable[[], object] = lambda: None,
) -> Iterator[Tensor]:
    """Train one epoch at a time; yields the sum of the losses of each, left on the device.

    SGD with g = ∇ℓ + decay·θ, v ← μ v + g, θ ← θ − lr·v, or Adam or AdamW with β_1 = μ, on reshuffled minibatches;
    `generator(epoch)` (epochs from 0) draws an epoch's permutation and then, per batch, crops (of textures), one
    augmentation, and what cutmix needs. A recipe that counts steps ends after the last one, also in the middle of an
    epoch.
    """
    recipe = recipe.for_images(len(examples))
    if recipe.temperature and examples.teacher is None:
        raise InputError(
            f"The protocol {recipe.name} needs a teacher that labels the images, and none was given; evaluate "
            "with: astdistill evaluate SET --protocol rded, or pass teacher= to evaluate_all."
        )
    optimiser = OPTIMISERS[recipe.optimiser](trainee.theta, examples.lr, recipe.momentum, recipe.weight_decay)
    remaining = recipe.steps[-1] if recipe.steps else None
    for epoch in range(recipe.passes):
        if recipe.starts_anew(epoch):
            optimiser = _decayed_optimiser(trainee, examples.lr, recipe)
        if recipe.drops_at or recipe.cosine:
            for group in optimiser.param_groups:
                group["lr"] = examples.lr * recipe.dropped(epoch)
        yield _train_epoch(trainee, optimiser, examples, recipe, generator(epoch), remaining, on_step)
        if remaining is not None:
            remaining -= -(-len(examples) // recipe.batch)
            if remaining <= 0:  # a recipe that counts as released has a pass more than its steps take
                return


def _by_class(counts: Confusion) -> tuple[float | None, ...]:
    pairs = zip(counts.diagonal().tolist(), counts.sum(dim=1).tolist(), strict=True)
    return tuple(100 * right / images if images else None for right, images in pairs)


def _decayed_optimiser(trainee: Trainee, lr: float, recipe: EvalRecipe) -> torch.optim.Optimizer:
    momentum = recipe.momentum_after
    if momentum is None:
        momentum = recipe.momentum
    return OPTIMISERS[recipe.optimiser](trainee.theta, lr * recipe.decay_factor, momentum, recipe.weight_decay)


def _train_epoch(
    trainee: Trainee,
    optimiser: torch.optim.Optimizer,
    examples: Examples,
    recipe: EvalRecipe,
    generator: torch.Generator,
    steps: int | None,
    on_step: Callable[[], object],
) -> Tensor:
    """The sum of the losses of an epoch, or of its first `steps` batches, left on the device."""
    texture = examples.texture
    order = torch.randperm(len(examples), generator=generator)
    total = torch.zeros((), dtype=torch.float32, device=trainee.theta.device)
    for images, targets in islice(examples.batches(recipe.batch, order), steps):
        channels, height, width = images.shape[1], images.shape[2] // texture.canvas, images.shape[3] // texture.canvas
        crops = texture.draw(len(images), (height, width), generator).to(images.device)
        drawn = draw(recipe.augmentation or "", len(images), (channels, height, width), generator).to(images.device)
        seen, targets = cut_and_mixed(apply(crops(images), drawn), targets, recipe.cutmix, generator)
        if recipe.temperature and examples.teacher is not None:
            targets = softmax(examples.teacher.labels(seen), dim=1)
        value, _ = trainee.gradient(seen, targets)
        optimiser.step()
        total += value
        on_step()
    return total
