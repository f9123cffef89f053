"""Train one fresh network on a set of images that lies on the device, and test it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..accuracy import Confusion, accuracy, confusion
from ..augment import apply, draw
from ..data.dataset import Split
from ..engines import Trainee
from ..seeds import sent
from ..shapes import Images, Targets
from .recipe import EvalRecipe


@dataclass(frozen=True)
class Examples:
    """What one network learns from: images `[N, C, H, W]`, distributions `[N, K]`, and the step size that suits them."""

    images: Images
    targets: Targets
    lr: float


MOST_CONFUSED = 100
"""Classes up to which a confusion matrix is kept: 10,000 counts a network."""


@dataclass(frozen=True)
class NetworkResult:
    """One trained network: accuracies in percent. `best` is None unless the recipe checks; it was chosen on the tested images."""

    final: float
    best: float | None = None
    diverged: bool = False
    by_class: tuple[float | None, ...] | None = None
    """Final accuracy on the images of each class, None for a class without images; None where nobody counted."""
    confusion: tuple[tuple[int, ...], ...] | None = None
    """Tested images of each class (row) by the class they were taken for; None where nobody counted, or above 100 classes."""


def train_network(
    network: nn.Module,
    examples: Examples,
    recipe: EvalRecipe,
    tested: Split,
    generator: Callable[[int], torch.Generator],
    on_epoch: Callable[[], None] = lambda: None,
) -> NetworkResult:
    """The accuracies on `tested` of `network`, trained in place on `examples` under `recipe`.

    SGD with g = ∇ℓ + decay·θ, v ← μ v + g, θ ← θ − lr·v on reshuffled minibatches; `generator(epoch)` (epochs from 0) draws an epoch's
    permutation and then one augmentation per batch. A loss that is not finite sets `diverged`; such a network is tested like any other.
    """
    device, decays_at, best = examples.images.device, recipe.decays_at(recipe.epochs), None
    trainee = Trainee(network)
    optimiser = torch.optim.SGD([trainee.theta], lr=examples.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    # One running sum instead of a look at every step: a non-finite term stays visible in it, and an accelerator never waits.
    total = torch.zeros((), device=device)
    for epoch in range(recipe.epochs):
        if epoch == decays_at:
            optimiser = _decayed(trainee, examples.lr, recipe)
        total = total + _train_epoch(trainee, optimiser, examples, recipe, generator(epoch))
        if recipe.check_every and (epoch + 1) % recipe.check_every == 0:
            best = max(best or 0.0, accuracy(trainee.logits, tested))
        on_epoch()
    counts = confusion(trainee.logits, tested, examples.targets.shape[1])
    final = 100 * float(counts.trace()) / len(tested)
    if recipe.check_every:
        best = max(best or 0.0, final)
    kept = tuple(map(tuple, counts.tolist())) if len(counts) <= MOST_CONFUSED else None
    return NetworkResult(final, best, not bool(total.isfinite()), _by_class(counts), kept)


def _by_class(counts: Confusion) -> tuple[float | None, ...]:
    pairs = zip(counts.diagonal().tolist(), counts.sum(dim=1).tolist(), strict=True)
    return tuple(100 * right / images if images else None for right, images in pairs)


def _decayed(trainee: Trainee, lr: float, recipe: EvalRecipe) -> torch.optim.SGD:
    momentum = recipe.momentum if recipe.momentum_after is None else recipe.momentum_after
    return torch.optim.SGD([trainee.theta], lr=lr * recipe.decay_factor, momentum=momentum, weight_decay=recipe.weight_decay)


def _train_epoch(
    trainee: Trainee, optimiser: torch.optim.SGD, examples: Examples, recipe: EvalRecipe, generator: torch.Generator
) -> Tensor:
    """The sum of the epoch's losses, left on the device."""
    images, targets = examples.images, examples.targets
    channels, height, width = images.shape[1:]
    order = sent(torch.randperm(len(images), generator=generator), images.device)
    total = torch.zeros((), device=images.device)
    for batch in order.split(recipe.batch):
        drawn = draw(recipe.augmentation or "", len(batch), (channels, height, width), generator).to(images.device)
        value, _ = trainee.gradient(apply(images[batch], drawn), targets[batch])
        optimiser.step()
        total += value
    return total
