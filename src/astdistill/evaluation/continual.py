"""Class-incremental learning from a distilled memory: classes arrive in steps, and each step trains new networks on
all classes seen so far.

The protocol of DM (arXiv 2110.04181), after GDumb: the memory holds the distilled images of every class seen; at each
step a new network is trained from scratch on it and tested on the classes seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import torch

from ..data.dataset import Dataset
from ..data.synthetic import SyntheticSet
from ..runtime.config import Record
from ..runtime.errors import InputError
from ..runtime.files import read_json, write_json
from ..runtime.run_dir import RunDir
from ..runtime.seeds import rng
from ..runtime.shapes import Labels
from ..runtime.tables import Column, Tabulation
from .cache import CachedRow, NetworkCache
from .protocol import MTT_PROTOCOL, EvalRecipe
from .rows import TAUGHT, Draw, TableRow, Testing, baseline_row, settled, synthetic_row
from .runner import train_rows
from .scores import BASELINE_NAMES, LABELS, SearchedRate, SetInfo, networks_text, protocol_text, read_as, spread
from .training import NetworkResult


@dataclass(frozen=True)
class Memory:
    """The part of a set that network k trains on after the first `seen` classes of its random order have arrived."""

    source: SyntheticSet | Draw
    seen: int
    classes: int
    seed: int

    def __call__(self, k: int) -> SyntheticSet:
        source = self.source
        if not isinstance(source, SyntheticSet):
            source = source(k)
        return of_classes(source, arrived(self.classes, self.seen, self.seed, k))


class Continual(Record):
    """Final accuracies in percent on the test images of the classes seen, by set, step and network."""

    recipe: EvalRecipe
    model: str
    subject: SetInfo
    seen: tuple[int, ...]
    """Classes that have arrived by the end of each step."""
    accuracies: dict[str, tuple[tuple[float, ...], ...]]
    """'synthetic' and baselines; for each step one figure a network."""
    rate: SearchedRate | None = None
    """Where the set's own learning rate was replaced by one that held-out images chose."""

    @staticmethod
    def read(path: Path) -> Continual:
        """The figures in a file. Raises InputError for anything else."""
        return read_as(Continual, read_json(path), path, "accuracies of arriving classes")


def continual(
    synthetic: SyntheticSet,
    dataset: Dataset,
    steps: int,
    recipe: EvalRecipe = MTT_PROTOCOL,
    model: str | Sequence[str] | None = None,
    seeds: int = 5,
    baselines: Sequence[str] = ("random",),
    out: Path | None = None,
    *,
    seed: int = 0,
    rates: Mapping[str, SearchedRate] | None = None,
    workers: int | None = None,
) -> Continual:
    """The accuracies of networks after each step of arriving classes, for the set and for real images in its place.

    Network k has its own order of the classes, drawn from `seed` and k. The network has an output for every class
    from the start; labels lose their share of classes that have not arrived.

    Args:
        synthetic: The distilled set.
        dataset: The data that it belongs to.
        steps: Each brings equally many classes; the first ones bring one more where the number does not divide.
        recipe: The protocol.
        model: Names of networks and of pools, of which the first is taken. None: the student of the set.
        seeds: Networks of each row.
        baselines: Rows of real images. full is left out, because a memory is small, and so is teacher, which has seen
            all classes.
        out: A folder whose cache is used and added to, and which gets `continual.json`. None: nothing is written.
        seed: Of networks, draws and orders.
        rates: What `search_rates` found, by network: the rate at which it learns from the set.
        workers: Networks, of any row, that a CPU trains in parallel. None: one for each core.

    Raises:
        InputError: For a number of steps that `check_steps` refuses, and where another process is writing to `out`.
    """
    check_steps(steps, dataset)
    recipe, (name, *_) = settled(synthetic, dataset, recipe, model)
    rate = (rates or {}).get(name)
    if rate:
        synthetic = rate.with_best_rate(synthetic)
    count = len(dataset.classes)
    seen = tuple(accumulate(count // steps + (step < count % steps) for step in range(steps)))
    full_rows = {"synthetic": synthetic_row(name, synthetic, recipe)}
    full_rows |= {
        each: baseline_row(each, name, synthetic.ipc, dataset, recipe, seed)
        for each in baselines
        if each not in ("full", TAUGHT)
    }
    rows = [_memory_row(row, classes, count, seed) for row in full_rows.values() for classes in seen]
    with NetworkCache.reserved(out) as cache:
        cached_rows = train_rows(rows, Testing(dataset, "test", seed, seeds), cache, workers)
    sizes = torch.bincount(dataset.test.labels.cpu(), minlength=count)
    by_step = [
        _accuracies_on_seen(each, sizes, classes, seed)
        for each, classes in zip(cached_rows, seen * len(full_rows), strict=True)
    ]
    accuracies = {each: tuple(by_step[row * steps : (row + 1) * steps]) for row, each in enumerate(full_rows)}
    measured = Continual(
        recipe=recipe, model=name, subject=SetInfo.of(synthetic), seen=seen, accuracies=accuracies, rate=rate
    )
    if out is not None:
        write_json(RunDir(out).continual, measured.to_json())
    return measured


def check_steps(steps: int, dataset: Dataset) -> None:
    """Raise InputError unless there are at least two steps, a class for each of them, and test images of every
    class."""
    count = len(dataset.classes)
    if not 2 <= steps <= count:
        raise InputError(
            f"--continual {steps} was given, but {count} classes can arrive in 2 to {count} steps; "
            "choose --continual between these."
        )
    for name, tests in zip(dataset.classes, dataset.test.labels.bincount(minlength=count).tolist(), strict=True):
        if not tests:
            raise InputError(
                f"Class '{name}' has no test images, which --continual needs of every class; "
                "leave the class or the flag out."
            )


def arrived(classes: int, seen: int, seed: int, k: int) -> Labels:
    """The `seen` first classes of network k's order."""
    return torch.randperm(classes, generator=rng(seed, "continual", k))[:seen]


def of_classes(synthetic: SyntheticSet, chosen: Labels) -> SyntheticSet:
    """The images whose most probable class is among `chosen`, grouped as before, with no share of any other class
    in soft labels."""
    member = torch.zeros(len(synthetic.classes), dtype=torch.bool, device=synthetic.targets.device)
    member[chosen.to(member.device)] = True
    rows = member[synthetic.hard_labels]
    targets = synthetic.targets[rows]
    absent = {"hard": 0.0, "soft": -torch.inf, "weights": 0.0}
    targets = targets.masked_fill(~member, absent[synthetic.labels])
    return replace(synthetic, images=synthetic.images[rows.to(synthetic.images.device)], targets=targets)


def continual_table(measured: Continual) -> Tabulation:
    """Accuracy by the number of classes seen."""
    columns = (Column("memory", left_aligned=True), *(Column(f"{seen} classes") for seen in measured.seen))
    names = {"synthetic": f"synthetic, {measured.model}", **BASELINE_NAMES}
    rows = [(names[name], *map(spread, by_step)) for name, by_step in measured.accuracies.items()]
    sizes = [len(values) for by_step in measured.accuracies.values() for values in by_step]
    ipc = measured.subject.ipc
    caption = (
        f"{protocol_text(measured.recipe, 'test', measured.rate is not None)} on the classes seen, last epoch; "
        f"every step trains from scratch on {ipc} image{'s' * (ipc != 1)} of each class seen; "
        f"{LABELS[measured.subject.labels]}; {networks_text(sizes)}, each with its own order of classes."
    )
    return Tabulation(columns, tuple(rows), caption, f"Class-incremental learning in {len(measured.seen)} steps")


def _memory_row(row: TableRow, seen: int, classes: int, seed: int) -> TableRow:
    """The row of a memory that holds `seen` classes; with all of them it is the row of the plain evaluation."""
    if seen == classes:
        return row
    assert isinstance(row.source, SyntheticSet | Draw)
    return replace(
        row,
        source=Memory(row.source, seen, classes, seed),
        images=row.images * seen // classes,
        content=f"{row.content}, {seen} classes of order {seed}",
    )


def _accuracies_on_seen(row: CachedRow, sizes: Labels, seen: int, seed: int) -> tuple[float, ...]:
    """Each network's accuracy on the test images of the classes that it has seen: its accuracies by class, weighted
    by their sizes."""
    return tuple(
        _accuracy_on_seen(result, sizes, arrived(len(sizes), seen, seed, k))
        for k, result in sorted(row.results.items())
    )


def _accuracy_on_seen(result: NetworkResult, sizes: Labels, seen: Labels) -> float:
    # A plain evaluation by an earlier version has no figures by class.
    if len(seen) == len(sizes) or result.by_class is None:
        return result.final
    right = sum((result.by_class[label] or 0.0) * int(sizes[label]) for label in seen.tolist())
    return right / int(sizes[seen].sum())
