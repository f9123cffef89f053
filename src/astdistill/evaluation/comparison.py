"""A synthetic set beside real images under one recipe, resumable after every network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from ..data.dataset import Dataset
from ..data.synthetic import SyntheticSet
from ..runtime.run_dir import RunDir
from .protocol import MTT_PROTOCOL, EvalRecipe, architectures
from .rows import BASELINES, Kept, Ledger, Testing, baseline_place, synthetic_place, train_places
from .runner import check_same_space
from .scores import Scores, SearchedRate, Subject


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
    rates: Mapping[str, SearchedRate] | None = None,
    workers: int | None = None,
) -> Scores:
    """The scores of `synthetic` on one or more networks and of real images on the first of them, all under `recipe`.

    `model` takes names of networks and of pools (see `pools.py`); None takes the student of the set. A network in
    `rates` (see `search_rates`) learns from the set at the rate found there.
    With `out`, a run folder, `scores.json` is rewritten after every finished network and `scores.partial.json` keeps
    each of them by what
    it depends on: the same command again trains only what is missing. On a CPU `workers` networks, of whatever row, are
        trained side by
    side (None: one for each core). Baselines take the recipe's step size or 0.01; network k of
    'random' and 'kmeans' sees the images of draw k. Raises InputError for an unknown baseline and for a set that does
    not belong to `dataset`.
    """
    check_same_space(synthetic, dataset)
    recipe = recipe.augmented(synthetic.augmentation)
    models = architectures(model, synthetic.model, dataset.shape)
    found = {name: rate for name, rate in (rates or {}).items() if name in models}
    sets = {name: rate.given(synthetic) for name, rate in found.items()}
    places = [synthetic_place(name, sets.get(name, synthetic), recipe) for name in models]
    places += [baseline_place(name, models[0], synthetic.ipc, dataset, recipe, seed) for name in baselines]

    def publish(kept: Sequence[Kept]) -> Scores:
        entries = [(number, each.place.name, each.entry()) for number, each in enumerate(kept) if each.results]
        scores = Scores(
            recipe=recipe,
            split=split,
            architecture={name: entry for number, name, entry in entries if number < len(models)},
            baselines={name: entry for number, name, entry in entries if number >= len(models)},
            subject=Subject.of(synthetic),
            rates=found,
            classes=dataset.classes,
        )
        if out is not None:
            scores.write(RunDir(out).scores)
        return scores

    return publish(train_places(places, Testing(dataset, split, seed, seeds), Ledger.beside(out), workers, publish))
