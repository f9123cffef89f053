"""Search the learning rate of each network on held-out training images; test images are not used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..data.dataset import Dataset
from ..data.selection import stratified
from ..data.synthetic import SyntheticSet
from ..runtime.errors import InputError
from ..runtime.tables import Column, Tabulation
from .cache import NetworkCache
from .protocol import MTT_PROTOCOL, EvalRecipe
from .rows import REAL_LR, Testing, settled, synthetic_row
from .runner import train_rows
from .scores import SearchedRate, networks_text, protocol_text, spread

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""The rates that are tried, as multiples of the set's own."""
SHARE = 0.1
"""Of the training images, held out for the search where the data have no validation split."""


def search_rates(
    synthetic: SyntheticSet,
    dataset: Dataset,
    recipe: EvalRecipe = MTT_PROTOCOL,
    model: str | Sequence[str] | None = None,
    seeds: int = 5,
    out: Path | None = None,
    *,
    factors: Sequence[float] = FACTORS,
    seed: int = 0,
    workers: int | None = None,
) -> dict[str, SearchedRate]:
    """For each network the multiple of the set's learning rate with the best mean accuracy on held-out images; the
    smaller one at a tie.

    Args:
        synthetic: The distilled set.
        dataset: The data that it belongs to. Without a validation split, a tenth of each class's training images is
            tested on instead: the set may have been distilled from them, but no test image is used either way.
        recipe: The protocol.
        model: Names of networks and of pools (see `protocol.py`). None: the student of the set.
        seeds: Networks of each rate.
        out: A folder whose cache is used and added to. None: nothing is stored.
        factors: Multiples of the set's learning rate.
        seed: Of networks and draws.
        workers: Networks, of any row, that a CPU trains in parallel. None: one for each core.

    Raises:
        InputError: The recipe fixes the learning rate, or another process is writing to `out`.
    """
    if recipe.lr is not None:
        raise InputError(
            f"The recipe fixes the learning rate at {recipe.lr:g}, so there is none to search; leave its lr out."
        )
    recipe, models = settled(synthetic, dataset, recipe, model)
    set_rate = synthetic.lr
    if not float(set_rate) > 0:
        set_rate = set_rate.new_tensor(REAL_LR)
    candidates = [replace(synthetic, lr=set_rate * factor) for factor in sorted(factors)]
    held_out = _with_validation(dataset, seed)
    rows = [synthetic_row(name, each, recipe) for name in models for each in candidates]
    with NetworkCache.reserved(out) as cache:
        cached_rows = train_rows(rows, Testing(held_out, "validation", seed, seeds), cache, workers)
    finals = [each.entry().final for each in cached_rows]
    judged_on = "the validation split"
    if dataset.validation is None:
        judged_on = f"{SHARE:.0%} of the training images"
    return {
        name: SearchedRate(
            rates=tuple(float(each.lr) for each in candidates),
            accuracies=tuple(finals[number * len(candidates) : (number + 1) * len(candidates)]),
            judged_on=judged_on,
        )
        for number, name in enumerate(models)
    }


def rates_table(rates: Mapping[str, SearchedRate], recipe: EvalRecipe) -> Tabulation:
    """The validation accuracy of every network at every rate; the chosen one is marked with *."""
    columns = (
        Column("network", left_aligned=True),
        Column("learning rate"),
        Column("validation accuracy"),
        Column("chosen", left_aligned=True),
    )
    rows = [
        (name, f"{rate:.4g}", spread(accuracies), "*" * (rate == searched.best))
        for name, searched in rates.items()
        for rate, accuracies in zip(searched.rates, searched.accuracies, strict=True)
    ]
    judged = next((searched.judged_on for searched in rates.values()), "no images")
    sizes = [len(accuracies) for searched in rates.values() for accuracies in searched.accuracies]
    caption = f"{protocol_text(recipe, 'validation')}, last epoch, judged on {judged}; {networks_text(sizes)}."
    edge = [name for name, searched in rates.items() if searched.best in (min(searched.rates), max(searched.rates))]
    if edge:
        caption += (
            f" The best of {', '.join(edge)} is at the end of the grid; one beyond it may be better: --lr NUMBER."
        )
    return Tabulation(columns, tuple(rows), caption, "Searched learning rates")


def _with_validation(dataset: Dataset, seed: int) -> Dataset:
    """The data set with a validation split, taken from its training images where it has none."""
    if dataset.validation is not None:
        return dataset
    labels = dataset.train.labels.cpu()
    number = max(len(dataset.classes), round(SHARE * len(labels)))
    rows = stratified(labels, len(dataset.classes), number, seed, "rate search").held_out
    return replace(dataset, validation=dataset.train.select(rows.to(dataset.train.labels.device)))
