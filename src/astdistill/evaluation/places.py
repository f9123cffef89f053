"""Rows of a table under training: each network is kept by what it depends on, whichever table asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..data.dataset import Dataset
from ..errors import unknown
from ..seeds import derive
from ..synthetic import SyntheticSet
from ..workers import divide
from .baselines import full_data, kmeans_real, random_real
from .evaluation import Evaluation, Row, check_names, check_seeds, split_of, train_networks, warn_of_divergence
from .ledger import Ledger, content, key, tested_content
from .recipe import EvalRecipe
from .scores import Entry
from .training import NetworkResult

BASELINES = ("random", "kmeans", "full")
UNTRAINED = ("name", "reported", "full_epochs")
"""What of a recipe no single network depends on: the full-data row has its epochs in `epochs` by then."""


@dataclass(frozen=True)
class Place:
    """A row by its name; `content` names its images in the ledger."""

    name: str
    row: Row
    content: str


@dataclass(frozen=True)
class Draw:
    """Real images of a baseline, drawn anew for each network."""

    baseline: str
    dataset: Dataset
    ipc: int
    seed: int

    def __call__(self, k: int) -> SyntheticSet:
        choose = random_real if self.baseline == "random" else kmeans_real
        return choose(self.dataset, self.ipc, derive(self.seed, "baseline", k))


@dataclass(frozen=True)
class Testing:
    """What the networks of all rows share: the data, the tested split, the seed of all draws, and the networks of each row."""

    dataset: Dataset
    split: Literal["test", "validation"]
    seed: int
    seeds: int

    def common(self) -> dict[str, Any]:
        """What the ledger notes of it. Raises InputError for a split that is not there."""
        tested = tested_content(split_of(self.dataset, self.split), self.dataset.preprocessing)
        return {"dataset": self.dataset.fingerprint, "split": self.split, "tested": tested, "seed": self.seed}


class Kept:
    """The networks of one row, as far as they are finished."""

    def __init__(self, ledger: Ledger, place: Place, common: dict[str, Any], seeds: int) -> None:
        self.place, self._ledger = place, ledger
        recipe = {name: value for name, value in place.row.recipe.to_json().items() if name not in UNTRAINED}
        self._about = {"recipe": recipe, "model": place.row.model, "images": place.content, **common}
        found = {k: ledger.get(key({**self._about, "network": k})) for k in range(seeds)}
        self.results = {k: result for k, result in found.items() if result is not None}

    def keep(self, k: int, result: NetworkResult) -> None:
        """Store one network."""
        about = {**self._about, "network": k}
        self._ledger.put(key(about), result, about)
        self.results[k] = result

    def entry(self) -> Entry:
        return Entry.of([self.results[k] for k in sorted(self.results)], self.place.row.recipe.reported)


def synthetic_place(model: str, synthetic: SyntheticSet, recipe: EvalRecipe) -> Place:
    """The row of a distilled set on one network."""
    return Place(model, Row(model, synthetic, synthetic.seen, recipe), content(synthetic))


def baseline_place(name: str, model: str, ipc: int, dataset: Dataset, recipe: EvalRecipe, seed: int) -> Place:
    """The row of a baseline. Raises InputError for an unknown one, and where a class has fewer than `ipc` images."""
    if name == "full":
        images = full_data(dataset)
        return Place(name, Row(model, images, len(images), recipe.for_full_data()), "full data")
    if name not in BASELINES:
        raise unknown("baseline", name, BASELINES)
    dataset.check_ipc(ipc)
    row = Row(model, Draw(name, dataset, ipc, seed), ipc * len(dataset.classes), recipe)
    return Place(name, row, f"{name} real images, {ipc} per class")


def train_places(
    places: Sequence[Place],
    testing: Testing,
    ledger: Ledger,
    workers: int | None,
    on_result: Callable[[list[Kept]], object] = lambda kept: None,
) -> list[Kept]:
    """All rows with every network trained, those in the ledger not again; `on_result` is told after each new one.

    On a CPU `workers` networks, of whatever row, are trained side by side (None: one for each core).
    """
    check_seeds(testing.seeds)
    models = list(dict.fromkeys(place.row.model for place in places))
    check_names(models, testing.dataset)
    common, seeds = testing.common(), testing.seeds
    kept = [Kept(ledger, place, common, seeds) for place in places]
    missing = [(number, k) for number, each in enumerate(kept) for k in range(seeds) if k not in each.results]
    whole = Evaluation(tuple(place.row for place in places), testing.dataset, testing.split, testing.seed, seeds)
    crew = divide(len(places) * seeds, workers, testing.dataset.device, models)
    for number, k, result in train_networks(whole, missing, crew, f"training {len(places)} × {seeds} networks (images seen)"):
        kept[number].keep(k, result)
        on_result(kept)
    for number in sorted({number for number, _ in missing}):
        warn_of_divergence(places[number].row.model, kept[number].entry())
    return kept
