"""Training of experts: trajectories in parallel on the cores, each resumable at every epoch; sharpness-aware steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from ..autodiff.dispatch import chosen, computing, using
from ..autodiff.training import Trainee, accuracy
from ..data.augmentation import apply, cut_and_mixed, draw
from ..data.dataset import Dataset, Split
from ..data.synthetic import one_hot
from ..models.flat import FlatModel
from ..models.registry import build_model
from ..runtime.cluster import used
from ..runtime.devices import moved, read
from ..runtime.errors import DivergedError, InputError
from ..runtime.files import NO_LOCKS, append_line, lock
from ..runtime.kinds import usual_torch
from ..runtime.objects import path_or_url
from ..runtime.parallel import WorkerPlan, plan_workers, pool, training_seconds
from ..runtime.progress import Bar, bar
from ..runtime.seeds import Draws, derive, rng
from ..runtime.shapes import Batch, Logits, Params, Scalar, Targets
from ..runtime.trust import trust_models
from .partial import PartialTrajectory, saved_epochs
from .recipe import ExpertCurve, ExpertRecipe
from .store import TrajectoryStore, identity_of


def sharpness_aware(trainee: Trainee, gradient: Callable[[], Logits], recipe: ExpertRecipe) -> Logits:
    """The logits of `gradient()` at θ; `theta.grad` becomes the direction of GSAM (arXiv 2203.08065, Algorithm 1), and
    θ is not changed.

        g = ∇f(θ),  g_p = ∇f(θ + e),  g_⊥ = g − (⟨g, g_p⟩/‖g_p‖²) g_p;   the direction is g_p − α g_⊥

    The ascent step e is ρ g/‖g‖, or ρ θ² ∘ g / ‖|θ| ∘ g‖ if the recipe's SAM is adaptive. `gradient` returns the logits
    of one batch and stores ∇f at the current θ in `theta.grad`; it is called twice, and must use the same batch, with
    the same augmentation, both times. ρ is the recipe's `sam_rho`, α its `surrogate_gap`.
    """
    logits, theta, slope = gradient(), trainee.theta.detach(), trainee.theta.grad
    assert slope is not None
    start, first_gradient = theta.clone(), slope.clone()
    tiny = torch.finfo(theta.dtype).tiny  # avoids a division by zero for a gradient of zero
    theta.add_(_ascent_step(start, first_gradient, recipe))
    gradient()
    theta.copy_(start)
    orthogonal = first_gradient - (first_gradient @ slope) / slope.square().sum().clamp_min(tiny) * slope
    slope.sub_(recipe.surrogate_gap * orthogonal)
    return logits


def _ascent_step(theta: Params, gradient: Params, recipe: ExpertRecipe) -> Params:
    """The ascent step from θ to the point whose gradient is followed, `[P]`; zero where the gradient is zero."""
    tiny = torch.finfo(theta.dtype).tiny
    if recipe.adaptive_sam:
        return recipe.sam_rho * theta.square() * gradient / (theta * gradient).norm().clamp_min(tiny)
    return recipe.sam_rho * gradient / gradient.norm().clamp_min(tiny)


@usual_torch()
def train_experts(
    dataset: Dataset,
    *,
    model: str = "convnet-d3",
    recipe: ExpertRecipe | None = None,
    count: int = 100,
    store: str | Path = "experts",
    seed: int = 0,
    dtype: Literal["float32", "bfloat16"] = "float32",
    workers: int | None = None,
    stop_after: int | None = None,
    shard: str | None = None,
    engine: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    cluster: str | None = None,
    allow_mixed: bool = False,
) -> TrajectoryStore:
    """The store under the folder `store` with at least `count` experts, training those that are missing.

    Any number of calls may fill a store at once. Trajectory k depends on (dataset, model, recipe, seed, k) alone, to
    the last bit where `count`, `workers` and the machine's threads are the same (see `plan_workers`). A killed call is
    resumed by the same call: finished experts are kept, interrupted ones continue from their last complete epoch.

    Args:
        dataset: What the experts learn from.
        model: The network, as `build_model` takes it.
        recipe: How each is trained. None: `ExpertRecipe()`, MTT's.
        count: How many experts the store is to have.
        store: The folder, or an address such as s3://BUCKET/FOLDER (see docs/cluster.md); each kind of experts has
            its own folder in it.
        seed: Of all draws, initialisations included.
        dtype: How parameters are kept on disk: "float32", 4 bytes each, or "bfloat16", 2.
        workers: Experts that are trained in parallel on a CPU. None: one for each core.
        stop_after: Train each up to this epoch only, 1 … E; drops of the learning rate and the like remain those of the
            whole recipe. The same call with a larger number, or without, continues the same experts; the result is
            bitwise that of one that never stopped. None: to the end.
        shard: "I/N": only those with k % N == I − 1 are trained, k = 0 … `count` − 1, by one process for each I,
            without any locks, for file systems that have none or nodes that do not see each other's. None: all.
        engine: What computes derivatives: "auto", "native", "compiled", "compiled-bfloat16" or "eager". None:
            $ASTDISTILL_ENGINE, or the fastest that can.
        device: Device to which the data is moved, such as "cpu" or "cuda". None: its current device.
        threads: Threads of the CPU, split among the workers. None: torch's own number. Torch's number is restored
            afterwards.
        cluster: "auto" or HOST:PORT: each expert is trained on a node of that Ray cluster, by `threads` (None: one).
            `store` must be an address, or a folder that all nodes see. None: on this machine.
        allow_mixed: Also use nodes of a cluster that would compute different bits.

    Returns:
        The store, open for reading.

    Raises:
        DivergedError: An expert's loss stopped being finite; the others' finished epochs are kept.
    """
    if count < 1:
        raise InputError(f"{count} experts were asked for; choose --experts.count of 1 or more.")
    trust_models(model)
    dataset = moved(dataset, device)
    with computing(engine, threads, cluster, allow_mixed):
        worker_plan = plan_workers(count, workers, dataset.device, [model])
    assigned = experts_of_shard(shard, count)
    recipe = recipe or ExpertRecipe()
    until = stop_after
    if until is None:
        until = recipe.epochs
    if not 1 <= until <= recipe.epochs:
        raise InputError(
            f"Experts were to stop after epoch {until}, but their recipe has {recipe.epochs}; "
            f"choose --experts.stop-after from 1 to {recipe.epochs}, or None for all of them."
        )
    parameters = FlatModel(build_model(model, dataset.shape, len(dataset.classes))).size
    identity = identity_of(dataset, recipe, model, parameters, seed, dtype)
    trajectories = TrajectoryStore.create(path_or_url(store), identity, dataset.config, dataset.preprocessing)
    trained = {expert: trajectories.trained_epochs(expert) for expert in trajectories.experts()}
    finished = [expert for expert, epochs in trained.items() if epochs >= recipe.epochs]
    PartialTrajectory.sweep(trajectories.scratch, finished)
    trajectories.files.tidy(finished)
    missing = [expert for expert in assigned if trained.get(expert, 0) < until]
    if missing:
        trajectories.files.check_writable()
        begun = {
            expert: min(until, max(trained.get(expert, 0), saved_epochs(trajectories.scratch, expert)))
            for expert in missing
        }
        total, images = len(assigned) * until, len(dataset.train)
        done = (len(assigned) - len(missing)) * until + sum(begun.values())
        with (
            computing(engine, threads, cluster, allow_mixed),
            bar("training experts (epochs)", total, done, "images", images) as progress,
        ):
            _train_missing(dataset, trajectories, begun, until, worker_plan, progress, shard is None)
    result = TrajectoryStore(trajectories.folder, identity, limit=count, until=until)
    if shard is None:
        return result
    return _without_shorter(result, until)


def _without_shorter(store: TrajectoryStore, until: int) -> TrajectoryStore:
    """The store without the experts that have not reached epoch `until`: another process trains its shard later."""
    present = store.experts()
    reached = tuple(expert for expert in present if store.trained_epochs(expert) >= until)
    if len(reached) == len(present):
        return store
    return replace(store, chosen=reached)


def experts_of_shard(shard: str | None, count: int) -> range:
    """The numbers of the experts in shard "I/N" of `count` experts; all of them for None. Raises InputError for
    anything else, and for a shard without experts."""
    if shard is None:
        return range(count)
    number, slash, total = shard.partition("/")
    if not (slash and number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
        raise InputError(
            f"--shard {shard} was given; write I/N, this process's number of how many, for example --shard 1/2."
        )
    assigned = range(int(number) - 1, count, int(total))
    if not assigned:
        raise InputError(
            f"--shard {shard} has none of {count} experts; choose N of at most {count}, or raise --experts.count."
        )
    return assigned


def _train_missing(
    dataset: Dataset,
    store: TrajectoryStore,
    begun: Mapping[int, int],
    until: int,
    worker_plan: WorkerPlan,
    progress: Bar,
    locks: bool,
) -> None:
    """Train experts that no other process is training; then wait for those of other processes, and continue those that
    they leave unfinished. `begun` has the epochs of each of them that `progress` counts already."""
    missing = [*begun]
    seconds_per_expert = expert_seconds(
        store.identity.recipe, len(dataset.train), until, store.identity.parameters, dataset.shape
    )
    seconds = len(missing) * seconds_per_expert
    shared = (dataset, store, until, chosen(), locks)
    gpu = dataset.device.type != "cpu"
    with pool(_train_if_free, shared, worker_plan, progress, len(missing), seconds, gpu) as train:
        if (cluster := used()) is not None and store.scratch == store.folder:
            cluster.check_shared(store.folder)
        waiting = False
        while missing:
            # Each worker waits for at most one: its process may finish that one, while another one is left unfinished.
            jobs = [
                (expert, begun[expert], waiting and index < worker_plan.workers) for index, expert in enumerate(missing)
            ]
            unfinished = sorted(expert for (expert, _, _), done in train(jobs) if not done)
            waiting, missing = len(unfinished) == len(missing), unfinished


def _train_if_free(
    shared: tuple[Dataset, TrajectoryStore, int, str, bool], job: tuple[int, int, bool], progress: Bar
) -> bool:
    """Train one expert unless another process is training it; if the job contains True, wait for that process first.
    Returns whether the expert has all its epochs."""
    (dataset, store, until, engine, locks), (expert, begun, wait) = shared, job
    with _expert_lock(store, expert, wait, locks) as locked, using(engine):
        if locked and store.trained_epochs(expert) < until:
            train_expert(dataset, store, expert, until, begun, progress)
            return store.trained_epochs(expert) >= until
    finished = store.trained_epochs(expert) >= until
    if finished:  # by another process
        progress.skip(until - begun)
    return finished


@contextmanager
def _expert_lock(store: TrajectoryStore, expert: int, wait: bool, locks: bool) -> Iterator[bool]:
    """Hold the lock of one expert, so that no two processes train the same one: that saves work, and nothing is lost if
    locks do not work. Raises InputError if the file system has no locks."""
    if not locks:
        yield True
        return
    with ExitStack() as stack:
        try:
            acquired = stack.enter_context(lock(store.scratch / f".{expert:03d}.lock", wait=wait))
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise InputError(
                f"The file system of {store.scratch} has no locks ({error.strerror}); train the experts there without "
                "them: astdistill experts PRESET --shard 1/1, or in two processes --shard 1/2 and --shard 2/2."
            ) from error
        yield acquired


def expert_seconds(
    recipe: ExpertRecipe, images: int, epochs: int, parameters: int, shape: tuple[int, int, int]
) -> float:
    """Estimate of the seconds that one core takes for `epochs` epochs of one expert, by which workers are started; with
    the penalty's second derivatives a step costs about three."""
    steps = epochs * math.ceil(images / recipe.batch)
    seconds = training_seconds(steps, epochs * images, parameters, shape[1] * shape[2])
    if recipe.penalty > 0:
        seconds *= 3
    if recipe.sam_rho > 0:
        seconds *= 2
    return seconds


def train_expert(dataset: Dataset, store: TrajectoryStore, expert: int, until: int, begun: int, progress: Bar) -> None:
    """Train one expert to epoch `until`, from its current epoch, and put its file into the store, unless another
    process does so first. `progress` counts the epochs from `begun` on."""
    identity, files = store.identity, store.files
    files.fetch(expert, identity.recipe.epochs)
    with PartialTrajectory.acquire(store.scratch, expert, identity.parameters) as partial, files.at_work(partial):
        _train_epochs(partial, dataset, store, expert, until, begun, progress)


def _train_epochs(
    partial: PartialTrajectory,
    dataset: Dataset,
    store: TrajectoryStore,
    expert: int,
    until: int,
    begun: int,
    progress: Bar,
) -> None:
    identity, recipe, classes = store.identity, store.identity.recipe, len(store.identity.classes)
    network = build_model(identity.model, identity.shape, classes, seed=derive(identity.seed, "expert", expert)).to(
        dataset.device
    )
    trainee = Trainee(network)
    optimiser = make_optimiser(trainee, recipe, 0)
    curves = ExpertCurve()
    first = partial.restore(trainee.theta, optimiser, curves)
    progress.skip(first - begun)
    for epoch in range(first, until):
        if store.trained_epochs(expert) >= until:
            progress.skip(until - epoch)
            partial.dismiss()
            return
        if recipe.starts_anew(epoch):
            optimiser = make_optimiser(trainee, recipe, epoch)
        if recipe.drops_at:
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(epoch)
        before = trainee.theta.detach().clone()
        trainee.draws = Draws(identity.seed, "dropout", expert, epoch)
        seed = derive(identity.seed, "expert", expert, epoch)
        correct = train_epoch(trainee, optimiser, dataset.train, classes, recipe, epoch, seed)
        after = trainee.theta.detach()
        measured = read({"right": correct, "step": (after - before).double().square().sum()})
        if not math.isfinite(step := measured["step"]):
            raise DivergedError(
                f"Expert {expert} of {store.folder} stopped being finite in epoch {epoch} (learning rate "
                f"{recipe.rate(epoch):g}); lower the recipe's learning rate or penalty and train again. "
                f"Finished experts are kept."
            )
        curves.train_accuracy.append(100 * measured["right"] / len(dataset.train))
        curves.test_accuracy.append(accuracy(trainee.logits, dataset.test))
        curves.step_squared.append(step)
        partial.append(after, optimiser, curves)
        store.files.save(partial)
        append_line(
            store.scratch / "log.jsonl",
            {"expert": expert, "epoch": epoch, **{name: values[-1] for name, values in vars(curves).items()}},
        )
        progress.step(note=f"expert {expert}: test {curves.test_accuracy[-1]:.1f} %, step² {step:.2f}")
    partial.publish(trainee.theta, optimiser, identity, curves)
    store.files.publish(expert, recipe.epochs, partial.folder)


def train_epoch(
    trainee: Trainee,
    optimiser: torch.optim.Optimizer,
    split: Split,
    classes: int,
    recipe: ExpertRecipe,
    epoch: int,
    seed: int,
) -> Scalar:
    """Train for one pass over `split`. Returns how many augmented images were classified correctly during the pass, on
    the device.

    The host never waits for an accelerator in between.
    """
    generator = rng(seed, "epoch")
    order = torch.randperm(len(split), generator=generator)
    correct = torch.zeros((), dtype=torch.float32, device=split.device)
    for images, labels in split.batches(recipe.batch, order):
        augmented = apply(images, draw(recipe.augmentation, len(images), split.shape, generator).to(images.device))
        targets = one_hot(labels, classes).to(augmented.dtype)
        augmented, targets = cut_and_mixed(augmented, targets, recipe.cutmix, generator)
        correct += (expert_gradient(trainee, images, augmented, targets, recipe, epoch).argmax(1) == labels).sum()
        if recipe.max_grad_norm > 0:
            nn.utils.clip_grad_norm_([trainee.theta], recipe.max_grad_norm)
        optimiser.step()
    return correct


def expert_gradient(
    trainee: Trainee, images: Batch, augmented: Batch, targets: Targets, recipe: ExpertRecipe, epoch: int
) -> Logits:
    """The logits of one batch; the gradient that the recipe descends along is stored in `theta.grad`."""
    if recipe.sam_rho == 0:
        return loss_gradient(trainee, images, augmented, targets, recipe, epoch)
    return sharpness_aware(
        trainee,
        lambda: loss_gradient(trainee, images, augmented, targets, recipe, epoch),
        recipe,
    )


def loss_gradient(
    trainee: Trainee, images: Batch, augmented: Batch, targets: Targets, recipe: ExpertRecipe, epoch: int
) -> Logits:
    """The logits of one batch; the gradient of c_e × cross-entropy + λ × gradient penalty is stored in `theta.grad`
    (docs/method.md, section 2, parts 1 and 2).

    In the corrected form the penalty uses the same batch as the cross-entropy, and they share the forward pass.
    """
    theta, clip = trainee.theta, recipe.clip(epoch)
    if recipe.penalty > 0 and recipe.penalty_form == "image":
        return trainee.penalised(augmented, targets, recipe.penalty, clip)[1]
    _, logits = trainee.gradient(augmented, targets)
    assert theta.grad is not None
    theta.grad.mul_(clip)
    if recipe.penalty > 0:
        entropy_gradient = theta.grad.clone()
        trainee.penalised(images, None, recipe.penalty, form=recipe.penalty_form)
        theta.grad.add_(entropy_gradient)
    return logits


def make_optimiser(trainee: Trainee, recipe: ExpertRecipe, epoch: int) -> torch.optim.Optimizer:
    """The recipe's optimiser of θ, at the learning rate of `epoch`."""
    rate, decay = recipe.rate(epoch), recipe.weight_decay
    if recipe.optimiser == "adam":
        return torch.optim.Adam([trainee.theta], lr=rate, weight_decay=decay)
    return torch.optim.SGD([trainee.theta], lr=rate, momentum=recipe.momentum, weight_decay=decay)
