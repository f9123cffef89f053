"""A synthetic set beside real images under one recipe, resumable after every network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..data.dataset import Dataset
from ..errors import unknown
from ..seeds import derive
from ..synthetic import SyntheticSet
from ..workers import divide
from .baselines import full_data, kmeans_real, random_real
from .evaluation import (
    Evaluation,
    Row,
    check_names,
    check_same_space,
    check_seeds,
    split_of,
    train_networks,
    warn_of_divergence,
)
from .ledger import Ledger, content, key, tested_content
from .pools import architectures
from .recipe import MTT_PROTOCOL, EvalRecipe
from .scores import Entry, Scores
from .training import NetworkResult

BASELINES = ("random", "kmeans", "full")
UNTRAINED = ("name", "reported", "full_epochs")
"""What of a recipe no single network depends on: the full-data row has its epochs in `epochs` by then."""


@dataclass(frozen=True)
class Place:
    """A row and where it stands in the scores; `content` names its images in the ledger."""

    table: Literal["architecture", "baselines"]
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


def evaluate_all(
    synthetic: SyntheticSet,
    dataset: Dataset,
    recipe: EvalRecipe = MTT_PROTOCOL,
    model: str | Sequence[str] | None = None,
    seeds: int = 5,
    baselines: Sequence[str] = BASELINES,
    out: Path | None = None,
    *,
    seed: int = 0,
    split: Literal["test", "validation"] = "test",
    workers: int | None = None,
) -> Scores:
    """The scores of `synthetic` on one or more networks and of real images on the first of them, all under `recipe`.

    `model` takes names of networks and of pools (see `pools.py`); None takes the student of the set.
    With `out`, a run folder, `scores.json` is rewritten after every finished network and `scores.partial.json` keeps each of them by what
    it depends on: the same command again trains only what is missing. On a CPU `workers` networks, of whatever row, are trained side by
    side (None: one for each core). Baselines take the recipe's step size or 0.01; network k of
    'random' and 'kmeans' sees the images of draw k. Raises InputError for an unknown baseline and for a set that does not belong to
    `dataset`.
    """
    check_seeds(seeds)
    check_same_space(synthetic, dataset)
    recipe = recipe.augmented(synthetic.augmentation)
    models = architectures(model, synthetic.model, dataset.shape)
    check_names(models, dataset)
    places = [Place("architecture", name, Row(name, synthetic, len(synthetic.images), recipe), content(synthetic)) for name in models]
    places += [_baseline(name, models[0], synthetic.ipc, dataset, recipe, seed) for name in baselines]
    tested = tested_content(split_of(dataset, split), dataset.preprocessing)
    common = {"dataset": dataset.fingerprint, "split": split, "tested": tested, "seed": seed}
    ledger = Ledger(None if out is None else out / "scores.partial.json")
    kept = [_Kept(ledger, place, common, seeds) for place in places]

    def publish() -> Scores:
        scores = _scores(kept, recipe, split, dataset.classes)
        if out is not None:
            scores.write(out / "scores.json")
        return scores

    missing = [(number, k) for number, each in enumerate(kept) for k in range(seeds) if k not in each.results]
    whole = Evaluation(tuple(place.row for place in places), dataset, split, seed, seeds)
    crew = divide(len(places) * seeds, workers, dataset.train.images.device, models)
    for number, k, result in train_networks(whole, missing, crew, f"training {len(places)} × {seeds} networks (images seen)"):
        kept[number].keep(k, result)
        publish()
    for number in sorted({number for number, _ in missing}):
        warn_of_divergence(places[number].row.model, kept[number].entry())
    return publish()


class _Kept:
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


def _scores(kept: Sequence[_Kept], recipe: EvalRecipe, split: Literal["test", "validation"], classes: tuple[str, ...]) -> Scores:
    tables: dict[str, dict[str, Entry]] = {"architecture": {}, "baselines": {}}
    for each in kept:
        if each.results:
            tables[each.place.table][each.place.name] = each.entry()
    return Scores(recipe=recipe, split=split, architecture=tables["architecture"], baselines=tables["baselines"], classes=classes)


def _baseline(name: str, model: str, ipc: int, dataset: Dataset, recipe: EvalRecipe, seed: int) -> Place:
    if name == "full":
        images = full_data(dataset)
        return Place("baselines", name, Row(model, images, len(images), recipe.for_full_data()), "full data")
    if name not in BASELINES:
        raise unknown("baseline", name, BASELINES)
    dataset.check_ipc(ipc)
    row = Row(model, Draw(name, dataset, ipc, seed), ipc * len(dataset.classes), recipe)
    return Place("baselines", name, row, f"{name} real images, {ipc} per class")
