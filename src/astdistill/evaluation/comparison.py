"""A synthetic set beside real images under one recipe, resumable after every network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..data.dataset import Dataset
from ..errors import unknown
from ..models.building import build_model
from ..seeds import derive
from ..synthetic import SyntheticSet
from .baselines import full_data, kmeans_real, random_real
from .evaluation import Source, check_same_space, check_seeds, evaluate, split_of, student
from .ledger import Ledger, content, key, tested_content
from .recipe import MTT_PROTOCOL, EvalRecipe
from .scores import Entry, Scores
from .training import NetworkResult

BASELINES = ("random", "kmeans", "full")
UNTRAINED = ("name", "reported", "full_epochs")
"""What of a recipe no single network depends on: the full-data row has its epochs in `epochs` by then."""


@dataclass(frozen=True)
class Row:
    """One row of the scores: what its networks learn from and under which recipe; `images` names that in the ledger."""

    place: Literal["architecture", "baselines"]
    name: str
    model: str
    source: Source
    recipe: EvalRecipe
    images: str


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
) -> Scores:
    """The scores of `synthetic` on one or more networks and of real images on the first of them, all under `recipe`.

    With `out`, a run folder, `scores.json` is rewritten after every finished network and `scores.partial.json` keeps each of them by what
    it depends on: the same command again trains only what is missing. Baselines take the recipe's step size or 0.01; network k of
    'random' and 'kmeans' sees the images of draw k. Raises InputError for an unknown baseline and for a set that does not belong to
    `dataset`.
    """
    check_seeds(seeds)
    check_same_space(synthetic, dataset)
    recipe = recipe.augmented(synthetic.augmentation)
    models = [model] if isinstance(model, str) else list(model or [student(synthetic)])
    for name in models:  # a wrong name is found now, not after hours of the one before it
        build_model(name, dataset.shape, len(dataset.classes))
    rows = [Row("architecture", name, name, synthetic, recipe, content(synthetic)) for name in models]
    rows += [_baseline(name, models[0], synthetic.ipc, dataset, recipe, seed) for name in baselines]
    tested = tested_content(split_of(dataset, split), dataset.preprocessing)
    common = {"dataset": dataset.fingerprint, "split": split, "tested": tested, "seed": seed}
    ledger = Ledger(None if out is None else out / "scores.partial.json")
    kept = [_Kept(ledger, row, common, seeds) for row in rows]

    def publish() -> Scores:
        scores = _scores(kept, recipe, split)
        if out is not None:
            scores.write(out / "scores.json")
        return scores

    for row in kept:
        if len(row.results) < seeds:
            row.train(dataset, seeds, seed, split, publish)
    return publish()


class _Kept:
    """The networks of one row, as far as they are finished."""

    def __init__(self, ledger: Ledger, row: Row, common: dict[str, Any], seeds: int) -> None:
        self.row, self._ledger = row, ledger
        recipe = {name: value for name, value in row.recipe.to_json().items() if name not in UNTRAINED}
        self._about = {"recipe": recipe, "model": row.model, "images": row.images, **common}
        found = {k: ledger.get(key({**self._about, "network": k})) for k in range(seeds)}
        self.results = {k: result for k, result in found.items() if result is not None}

    def train(self, dataset: Dataset, seeds: int, seed: int, split: Literal["test", "validation"], publish: Callable[[], object]) -> None:
        """Train what is missing, store each network at once, and publish the scores so far."""

        def keep(k: int, result: NetworkResult) -> None:
            about = {**self._about, "network": k}
            self._ledger.put(key(about), result, about)
            self.results[k] = result
            publish()

        done = dict(self.results)
        evaluate(
            self.row.source,
            dataset,
            recipe=self.row.recipe,
            model=self.row.model,
            seeds=seeds,
            seed=seed,
            split=split,
            done=done,
            on_result=keep,
        )

    def entry(self) -> Entry:
        return Entry.of([self.results[k] for k in sorted(self.results)], self.row.recipe.reported)


def _scores(kept: Sequence[_Kept], recipe: EvalRecipe, split: Literal["test", "validation"]) -> Scores:
    places: dict[str, dict[str, Entry]] = {"architecture": {}, "baselines": {}}
    for each in kept:
        if each.results:
            places[each.row.place][each.row.name] = each.entry()
    return Scores(recipe=recipe, split=split, architecture=places["architecture"], baselines=places["baselines"])


def _baseline(name: str, model: str, ipc: int, dataset: Dataset, recipe: EvalRecipe, seed: int) -> Row:
    if name == "full":
        return Row("baselines", name, model, full_data(dataset), recipe.for_full_data(), "full data")
    if name not in BASELINES:
        raise unknown("baseline", name, BASELINES)
    dataset.check_ipc(ipc)
    choose = random_real if name == "random" else kmeans_real
    return Row(
        "baselines",
        name,
        model,
        lambda k: choose(dataset, ipc, derive(seed, "baseline", k)),
        recipe,
        f"{name} real images, {ipc} per class",
    )
