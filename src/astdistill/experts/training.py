"""Training experts: one trajectory after another, each resumable at every epoch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..accuracy import accuracy
from ..augment import apply, draw
from ..data import Dataset, Split
from ..errors import DivergedError, InputError
from ..models import FlatModel, build_model
from ..progress import Bar, bar
from ..runs import append_line, lock
from ..seeds import derive, rng, seeded
from ..shapes import Batch, Labels, Scalar
from .curves import ExpertCurve
from .partial import PartialTrajectory
from .recipe import ExpertRecipe
from .store import TrajectoryStore, identity_of


def train_experts(
    dataset: Dataset,
    *,
    model: str = "convnet-d3",
    recipe: ExpertRecipe | None = None,
    count: int = 100,
    store: str | Path = "experts",
    seed: int = 0,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> TrajectoryStore:
    """The store under the folder `store` with at least `count` experts, training those that are missing.

    Trajectory k depends on (dataset, model, recipe, seed, k) alone. A killed call is resumed by the same call: finished
    experts are kept, the one that was cut short goes on from its last whole epoch. Raises DivergedError when an expert's loss stops
    being finite; the experts before it are kept.
    """
    if count < 1:
        raise InputError(f"{count} experts were asked for; choose --experts.count of 1 or more.")
    recipe = recipe or ExpertRecipe()
    parameters = FlatModel(build_model(model, dataset.shape, len(dataset.classes))).size
    identity = identity_of(dataset, recipe, model, parameters, seed, dtype)
    trajectories = TrajectoryStore.create(Path(store), identity, dataset.config, dataset.preprocessing)
    PartialTrajectory.sweep(trajectories.folder, trajectories.experts())
    missing = sorted(set(range(count)) - set(trajectories.experts()))
    if missing:
        with bar("training experts (epochs)", count * recipe.epochs, (count - len(missing)) * recipe.epochs) as progress:
            _train_missing(dataset, trajectories, missing, progress)
    return TrajectoryStore(trajectories.folder, identity, limit=count)


def _train_missing(dataset: Dataset, store: TrajectoryStore, missing: list[int], progress: Bar) -> None:
    """Train experts that no other process is at; then wait for those that another one is at, and take over what it leaves."""
    waiting = False
    while missing:
        for expert in missing:
            with lock(store.folder / f".{expert:03d}.lock", wait=waiting) as held:
                waiting = False
                if held and not store.path(expert).exists():
                    train_expert(dataset, store, expert, progress)
        left = [expert for expert in missing if not store.path(expert).exists()]
        waiting, missing = len(left) == len(missing), left


def train_expert(dataset: Dataset, store: TrajectoryStore, expert: int, progress: Bar) -> None:
    """Train one expert to the end and put its file into the store."""
    identity, recipe = store.identity, store.identity.recipe
    device = dataset.train.images.device
    network = build_model(identity.model, identity.shape, len(identity.classes), seed=derive(identity.seed, "expert", expert)).to(device)
    flat = FlatModel(network)
    optimiser = _optimiser(network, recipe, 0)
    curves = ExpertCurve()
    partial = PartialTrajectory(store.folder, expert, flat.size)
    first = partial.restore(network, flat, optimiser, curves)
    progress.step(first)
    for epoch in range(first, recipe.epochs):
        if epoch == recipe.drop_epoch and recipe.lr_drop != 1:
            optimiser = _optimiser(network, recipe, epoch)
        before = flat.flatten(network)
        with seeded(identity.seed, "dropout", expert, epoch):  # a user's network may draw while it trains
            trained = train_epoch(network, optimiser, dataset.train, recipe, epoch, derive(identity.seed, "expert", expert, epoch))
        after = flat.flatten(network)
        if not math.isfinite(step := float((after - before).double().square().sum())):
            raise DivergedError(
                f"Expert {expert} of {store.folder} stopped being finite in epoch {epoch} (rate {recipe.rate(epoch):g}); lower the "
                f"recipe's rate or penalty and train again. Finished experts are kept."
            )
        curves.train_accuracy.append(trained)
        curves.test_accuracy.append(accuracy(network, dataset.test))
        curves.step_squared.append(step)
        partial.append(after, optimiser, curves)
        append_line(
            store.folder / "log.jsonl",
            {"expert": expert, "epoch": epoch, **{name: values[-1] for name, values in vars(curves).items()}},
        )
        progress.step(note=f"expert {expert}: test {curves.test_accuracy[-1]:.1f} %, step² {step:.2f}")
    partial.finish(store.path(expert), identity, curves)


def train_epoch(network: nn.Module, optimiser: torch.optim.Optimizer, split: Split, recipe: ExpertRecipe, epoch: int, seed: int) -> float:
    """Train for one pass over `split`; the accuracy, in percent, on the augmented batches as they came."""
    network.train()
    generator = rng(seed, "epoch")
    order = torch.randperm(len(split), generator=generator).to(split.labels.device)
    correct = torch.zeros((), device=split.labels.device)
    shape = split.images.shape[1], split.images.shape[2], split.images.shape[3]
    for chosen in order.split(recipe.batch):
        images, labels = split.images[chosen], split.labels[chosen]
        augmented = apply(images, draw(recipe.augmentation, len(chosen), shape, generator).to(images.device))
        loss, hits = expert_loss(network, images, augmented, labels, recipe, epoch)
        optimiser.zero_grad()
        loss.backward()
        if recipe.grad_norm > 0:
            nn.utils.clip_grad_norm_(network.parameters(), recipe.grad_norm)
        optimiser.step()
        correct += hits
    return 100 * float(correct) / len(split)


def expert_loss(
    network: nn.Module, images: Batch, augmented: Batch, labels: Labels, recipe: ExpertRecipe, epoch: int
) -> tuple[Scalar, Scalar]:
    """c_e × cross-entropy + λ × gradient penalty on one batch (METHOD §2, parts 1 and 2), and how many images were right."""
    together = recipe.penalty > 0 and recipe.penalty_form == "image"
    augmented = augmented.detach().requires_grad_(together)
    logits = network(augmented)
    loss = recipe.clip(epoch) * cross_entropy(logits, labels)
    if recipe.penalty > 0:
        # Sound: the same batch that the cross-entropy sees, so its forward pass is shared.
        source, outputs = (augmented, logits) if together else _unaugmented(network, images)
        loss = loss + recipe.penalty * gradient_penalty(source, outputs, recipe.penalty_form)
    return loss, (logits.detach().argmax(1) == labels).sum()


def gradient_penalty(images: Batch, logits: Tensor, form: Literal["image", "pixel"]) -> Scalar:
    """mean (‖∇_x Σ_k f_k(x)‖₂ − 1)², the norm over a whole image or over the channels of each pixel (METHOD §2, part 2)."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    flat = gradient.flatten(1) if form == "image" else gradient
    # An image whose gradient is exactly zero has no direction to be pushed in: the tiny term keeps the derivative of the norm finite.
    norm = (flat.square().sum(dim=1) + 1e-20).sqrt()
    return (norm - 1).square().mean()


def _unaugmented(network: nn.Module, images: Batch) -> tuple[Batch, Tensor]:
    source = images.detach().requires_grad_()
    return source, network(source)


def _optimiser(network: nn.Module, recipe: ExpertRecipe, epoch: int) -> torch.optim.Optimizer:
    if recipe.optimiser == "adam":
        return torch.optim.Adam(network.parameters(), lr=recipe.rate(epoch), weight_decay=recipe.weight_decay)
    return torch.optim.SGD(network.parameters(), lr=recipe.rate(epoch), momentum=recipe.momentum, weight_decay=recipe.weight_decay)
