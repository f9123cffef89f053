"""The runner of all evaluations: trains fresh networks on a small set of images and tests them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch

from ..autodiff.dispatch import chosen, computing, using
from ..data.augmentation import STRATEGY
from ..data.dataset import Dataset, Split
from ..data.synthetic import SyntheticSet
from ..models.registry import build_model
from ..runtime.devices import moved
from ..runtime.kinds import usual_torch
from ..runtime.parallel import plan_workers, pool
from ..runtime.progress import Bar, bar, console
from ..runtime.run_dir import RunDir
from ..runtime.seeds import Draws, derive, rng
from .cache import CachedRow, NetworkCache
from .protocol import MTT_PROTOCOL, EvalRecipe, architectures
from .rows import (
    TAUGHT,
    USUAL,
    Source,
    TableRow,
    Testing,
    baseline_row,
    check_shapes,
    check_taught,
    settled,
    synthetic_row,
)
from .scores import RowScores, Scores, SearchedRate, SetInfo, Taught
from .teacher import Teacher, TeacherInfo
from .training import NetworkResult, train_network


def train_rows(
    rows: Sequence[TableRow],
    testing: Testing,
    cache: NetworkCache,
    workers: int | None,
    on_result: Callable[[list[CachedRow]], object] = lambda rows: None,
) -> list[CachedRow]:
    """Train the networks of all rows that are not in the cache, and return the rows with all results; `on_result` is
    called after each new one.

    On a CPU `workers` networks, of any row, are trained in parallel (None: one for each core; their threads: see
    `parallel.plan_workers`). Raises InputError for what `Testing.check` refuses.
    """
    testing.check(list(dict.fromkeys(row.model for row in rows)))
    common = testing.common()
    cached = [cache.row(row, common, testing.seeds) for row in rows]
    title = f"training {len(rows)} × {testing.seeds} networks (images seen)"
    _train_missing(cached, testing, workers, title, lambda row, k: on_result(cached))
    return cached


@usual_torch()
def evaluate(
    synthetic: Source,
    dataset: Dataset,
    *,
    recipe: EvalRecipe = MTT_PROTOCOL,
    model: str | Sequence[str] | None = None,
    seeds: int = 5,
    seed: int = 0,
    split: Literal["test", "validation"] = "test",
    done: Mapping[tuple[str, int], NetworkResult] | None = None,
    on_result: Callable[[str, int, NetworkResult], object] = lambda name, k, result: None,
    workers: int | None = None,
    engine: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    cluster: str | None = None,
    allow_mixed: bool = False,
) -> Scores:
    """The scores of `seeds` freshly initialised networks, each trained on `synthetic` alone and tested on one split of
    `dataset`.

    Network k and all its draws depend on its name, `seed` and k only. Computes on the device of `dataset`.

    Args:
        synthetic: The distilled set, or real images as a set.
        dataset: The real data, which networks are tested on.
        recipe: The evaluation protocol; MTT's by default. `PROTOCOLS` has others.
        model: The network, or several, or pools of them (see `protocol.py`). None: the student of the distilled set.
        seeds: Networks of each kind, 1 or more.
        seed: Of all draws.
        split: "test" or "validation".
        done: Results by (name of the network, k), which are not computed again. None: no results.
        on_result: Called with (name, k, result) for each new result as it finishes.
        workers: Networks trained in parallel on a CPU. None: one for each core.
        engine: What computes derivatives: "auto", "native", "compiled", "compiled-bfloat16" or "eager". None:
            $ASTDISTILL_ENGINE, or the fastest available.
        device: Device to move the data to, such as "cpu" or "cuda". None: the one that it is on.
        threads: Threads of the CPU, split among the workers. None: torch's own number. Torch's number is restored
            afterwards.
        cluster: "auto" or HOST:PORT: each network is trained on a node of that Ray cluster, by `threads` (None: one).
            None: on this machine.
        allow_mixed: Also take nodes of a cluster whose results would differ in their bits.

    Returns:
        Accuracies in percent, their mean and standard deviation.

    Raises:
        InputError: The set and the data do not share classes, shape and preprocessing, or images and targets do not
            belong to each other; or there is no network, split,
            engine or device of that name, a number is out of range, or the protocol needs a teacher, which `run` and
            `astdistill evaluate` provide.
    """
    dataset = moved(dataset, device)
    student, augmentation, subject = "", STRATEGY, None
    if isinstance(synthetic, SyntheticSet):
        check_shapes(synthetic)
        student, augmentation, subject = synthetic.model, synthetic.augmentation, SetInfo.of(synthetic)
        recipe = recipe.for_set(synthetic.ipc, len(synthetic.classes))
    names = architectures(model, student, dataset.shape)
    recipe, testing, done = recipe.augmented(augmentation), Testing(dataset, split, seed, seeds), done or {}
    testing.check(names)
    finished = {name: {k: done[name, k] for k in range(seeds) if (name, k) in done} for name in names}
    source = synthetic
    if callable(synthetic):
        source = _SetsByNetwork(
            {k: synthetic(k) for k in range(seeds) if any(k not in finished[name] for name in names)}
        )
    images = _images_seen(source)
    cached = [CachedRow(TableRow(name, name, source, images, recipe), finished[name]) for name in names]
    purpose = " for validation" * (split == "validation")
    title = f"training {', '.join(names)} on {_title(synthetic)}{purpose} (images seen)"
    with computing(engine, threads, cluster, allow_mixed):
        _train_missing(cached, testing, workers, title, lambda row, k: on_result(row.row.model, k, row.results[k]))
    majority = testing.majority
    entries = {row.row.model: row.entry(majority is not None) for row in cached}
    return Scores(
        recipe=recipe,
        split=split,
        seed=seed,
        architecture=entries,
        subject=subject,
        classes=dataset.classes,
        majority=majority,
    )


@usual_torch()
def evaluate_all(
    synthetic: SyntheticSet,
    dataset: Dataset,
    recipe: EvalRecipe = MTT_PROTOCOL,
    model: str | Sequence[str] | None = None,
    seeds: int = 5,
    baselines: Sequence[str] = USUAL,
    out: Path | None = None,
    *,
    seed: int = 0,
    split: Literal["test", "validation"] = "test",
    rates: Mapping[str, SearchedRate] | None = None,
    workers: int | None = None,
    teacher: Teacher | None = None,
) -> Scores:
    """The scores of a distilled set on one or more networks and of real images on the first of them, all under one
    protocol.

    Args:
        synthetic: The distilled set.
        dataset: The data that it belongs to.
        recipe: The protocol.
        model: Names of networks and of pools (see `protocol.py`). None: the student of the set.
        seeds: Networks of each row.
        baselines: Rows of real images: random, kmeans, herding, kcenter, full and teacher. They take the recipe's
            learning rate or 0.01. Network k of random and kmeans sees the images of draw k; those of herding and
            kcenter are the same for all. teacher is random images with the soft labels of `teacher`, returned
            separately as `Scores.taught`.
        out: A run folder, in which `scores.json` is rewritten after every finished network and `scores.partial.json`
            stores each of them by what it depends on: the same call again trains only what is missing. None: nothing
            is written.
        seed: Of networks and draws.
        split: The images that are tested.
        rates: What `search_rates` found, by network: the rate at which it learns from the set.
        workers: Networks, of any row, that a CPU trains in parallel. None: one for each core.
        teacher: The network that labels the images, for the row teacher and for a protocol with a temperature.

    Raises:
        InputError: For an unknown baseline, for a set that does not belong to `dataset`, for a teacher that was trained
            on other data, and where another process is writing to `out`.
    """
    check_taught(recipe, baselines)
    recipe, models = settled(synthetic, dataset, recipe, model)
    used = {name: rate for name, rate in (rates or {}).items() if name in models}
    sets = {name: rate.with_best_rate(synthetic) for name, rate in used.items()}
    rows = [synthetic_row(name, sets.get(name, synthetic), recipe) for name in models]
    rows += [baseline_row(name, models[0], synthetic.ipc, dataset, recipe, seed, teacher) for name in baselines]
    rows = [row.taught_by(teacher, dataset.fingerprint) for row in rows]
    subject = SetInfo.of(synthetic)
    if recipe.temperature:
        subject = subject.replace(labels="teacher")

    testing = Testing(dataset, split, seed, seeds)
    majority = testing.majority

    def publish(cached: Sequence[CachedRow]) -> Scores:
        entries = [
            (number, each.row.name, each.entry(majority is not None))
            for number, each in enumerate(cached)
            if each.results
        ]
        real = {name: entry for number, name, entry in entries if number >= len(models)}
        scores = Scores(
            recipe=recipe,
            split=split,
            seed=seed,
            architecture={name: entry for number, name, entry in entries if number < len(models)},
            taught=_teacher_row(real.pop(TAUGHT, None), teacher, synthetic),
            baselines=real,
            subject=subject,
            online=_online_teacher(recipe, teacher),
            rates=used,
            classes=dataset.classes,
            majority=majority,
        )
        if out is not None:
            scores.write(RunDir(out).scores)
        return scores

    with NetworkCache.reserved(out) as cache:
        return publish(train_rows(rows, testing, cache, workers, publish))


def _online_teacher(recipe: EvalRecipe, teacher: Teacher | None) -> TeacherInfo | None:
    """The teacher of all rows under a recipe that has one."""
    if teacher is None or not recipe.temperature:
        return None
    return teacher.at(recipe.temperature).info


def _teacher_row(row: RowScores | None, teacher: Teacher | None, synthetic: SyntheticSet) -> Taught | None:
    """The row of a teacher's labels with its storage: as many real images as the set has, and for each image one
    number per class."""
    if row is None or teacher is None:
        return None
    channels, height, width = synthetic.shape
    images, classes = len(synthetic.images), len(synthetic.classes)
    return Taught(
        teacher=teacher.info,
        label_bytes=4 * images * classes,
        image_bytes=4 * images * channels * height * width,
        row=row,
    )


def _train_missing(
    cached: Sequence[CachedRow],
    testing: Testing,
    workers: int | None,
    title: str,
    on_result: Callable[[CachedRow, int], object],
) -> None:
    """Train the networks missing in the rows in parallel; `on_result` is called with the row and the number of each as
    it finishes."""
    rows, seeds, dataset = tuple(each.row for each in cached), testing.seeds, testing.dataset
    worker_plan = plan_workers(
        len(rows) * seeds, workers, dataset.device, list(dict.fromkeys(row.model for row in rows))
    )
    missing = [(number, k) for number, each in enumerate(cached) for k in range(seeds) if k not in each.results]
    if not missing:
        return
    each = [row.seconds(dataset) for row in rows]
    seconds = sum(each[number] for number, _ in missing)
    incomplete = sorted({number for number, _ in missing})
    if worker_plan.starts(len(missing), seconds):
        # The first row first, as users wait for it; then the longest, so that no core is idle at the end.
        missing = sorted(missing, key=lambda job: (job[0] > 0, -each[job[0]]))
    gpu = dataset.device.type != "cpu"
    total, remaining = (
        seeds * sum(row.images_seen for row in rows),
        sum(rows[number].images_seen for number, _ in missing),
    )
    with (
        bar(title, total, total - remaining, "images") as progress,
        pool(_train, (rows, testing, chosen()), worker_plan, progress, len(missing), seconds, gpu) as train,
    ):
        for (number, k), result in train(missing):
            progress.step(0, f"{testing.split} {result.final:.1f} %")
            cached[number].add(k, result)
            on_result(cached[number], k)
    for number in incomplete:
        _warn_of_divergence(cached[number])


def _train(shared: tuple[tuple[TableRow, ...], Testing, str], job: tuple[int, int], progress: Bar) -> NetworkResult:
    """Train and test one network, given by its row and number, with the engine named in `shared`."""
    (rows, testing, engine), (number, k) = shared, job
    row = rows[number]
    dataset, seed = testing.dataset, testing.seed
    examples = row.examples(dataset, k)
    network = build_model(row.model, dataset.shape, len(dataset.classes), seed=derive(seed, "evaluate", k))
    network = network.to(dataset.device)

    def count() -> None:
        progress.step(examples.images_per_epoch)

    def generator(epoch: int) -> torch.Generator:
        return rng(seed, "evaluate", k, epoch)

    draws = Draws(seed, "evaluate", k, "dropout")
    with using(engine):
        return train_network(network, examples, row.recipe, testing.images, generator, count, draws)


def _warn_of_divergence(row: CachedRow) -> None:
    """Warn of networks whose loss stopped being finite, if there are any."""
    entry = row.entry()
    if entry.diverged:
        console().print(
            f"{entry.diverged} of {entry.n} networks ({row.row.model}) had a training loss that is not finite; "
            "their accuracy still counts. Try a smaller learning rate.",
            style="yellow",
        )


class _SetsByNetwork(dict[int, SyntheticSet | Split]):
    """The sets of the networks by their numbers: other processes might not be able to import the caller's function."""

    def __call__(self, k: int) -> SyntheticSet | Split:
        return self[k]


def _images_seen(source: Source) -> int:
    """How many images one network sees in an epoch."""
    sets = [source]
    if isinstance(source, _SetsByNetwork):
        sets = list(source.values())
    synthetic = [each.seen for each in sets if isinstance(each, SyntheticSet)]
    return max(synthetic + [len(each) for each in sets if isinstance(each, Split)], default=0)


def _title(source: Source) -> str:
    if isinstance(source, SyntheticSet):
        return f"{len(source.images)} synthetic images"
    if isinstance(source, Split):
        return f"{len(source)} real images"
    return "real images"
