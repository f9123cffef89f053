"""DD-Ranking (arXiv 2505.13300): scores from 0 to 1 of what a distilled set contributes besides its soft labels and
its augmentation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from ..data.dataset import Dataset
from ..data.synthetic import SyntheticSet, one_hot
from ..runtime.config import Record
from ..runtime.errors import InputError
from ..runtime.files import read_json, write_json
from ..runtime.run_dir import RunDir
from ..runtime.tables import Column, Tabulation
from .cache import NetworkCache
from .protocol import MTT_PROTOCOL, EvalRecipe
from .rows import Draw, TableRow, Testing, baseline_row, content, settled, synthetic_row
from .runner import train_rows
from .scores import LABELS, SearchedRate, SetInfo, networks_text, protocol_text, read_as, spread

RandomLabels = Literal["same", "own"]


class Measured(Record):
    """Final accuracies in percent, one per network; network k of every row has the same initialisation."""

    full: tuple[float, ...]
    """All real images."""
    synthetic: tuple[float, ...]
    """The set as it is: its own labels, the protocol's augmentation."""
    synthetic_hard: tuple[float, ...]
    """The same images with hard labels."""
    synthetic_plain: tuple[float, ...]
    """The set without augmentation."""
    random: tuple[float, ...]
    """As many random real images, with the labels that the ranking names."""
    random_plain: tuple[float, ...]
    """The same without augmentation."""


class Ranking(Record):
    """The scores of every network; accuracies and their differences are shares in [0, 1] in the formulas."""

    recipe: EvalRecipe
    model: str
    subject: SetInfo
    accuracies: Measured
    rate: SearchedRate | None = None
    """Where the set's own learning rate was replaced by one that held-out images chose."""
    random_labels: RandomLabels = "own"
    """What the random images are labelled with. own: their classes; same: the set's labels of the same class, which for
    a set of hard labels is no other."""
    weight: float = Field(default=0.5, ge=0, le=1)
    """w, the share of IOR in the label-robust score; ½ on the leaderboard."""
    gamma: float = Field(default=0.5, ge=0, le=1)
    """γ, the share of the augmented training in the augmentation-robust score; ½ is the default of the authors'
    code."""

    @property
    def hlr(self) -> tuple[float, ...]:
        """Hard-label recovery: full data less the set with hard labels. Smaller is better."""
        return _difference(self.accuracies.full, self.accuracies.synthetic_hard)

    @property
    def ior(self) -> tuple[float, ...]:
        """Improvement over random: the set less random real images."""
        return _difference(self.accuracies.synthetic, self.accuracies.random)

    @property
    def ior_plain(self) -> tuple[float, ...]:
        """The same improvement without augmentation."""
        return _difference(self.accuracies.synthetic_plain, self.accuracies.random_plain)

    @property
    def lrs(self) -> tuple[float, ...]:
        """Label-robust score, of α = w IOR − (1 − w) HLR."""
        return tuple(
            robust(self.weight * ior - (1 - self.weight) * hlr) for ior, hlr in zip(self.ior, self.hlr, strict=True)
        )

    @property
    def ars(self) -> tuple[float, ...]:
        """Augmentation-robust score, of β = γ IOR + (1 − γ) IOR without augmentation."""
        return tuple(
            robust(self.gamma * ior + (1 - self.gamma) * plain)
            for ior, plain in zip(self.ior, self.ior_plain, strict=True)
        )

    def write(self, path: Path) -> None:
        """Write `ranking.json`: the scores, and the accuracies that they are computed from."""
        scores = {name: list(getattr(self, name)) for name in ("hlr", "ior", "ior_plain", "lrs", "ars")}
        write_json(path, {"scores": scores, **self.to_json()})

    @staticmethod
    def read(path: Path) -> Ranking:
        """Read what `write` wrote. Raises InputError for anything else."""
        values = {name: value for name, value in read_json(path).items() if name != "scores"}
        return read_as(Ranking, values, path, "DD-Ranking's scores")


def robust(difference: float) -> float:
    """(e^x − e^−1) / (e − e^−1): 0 at x = −1, 1 at x = 1."""
    return (math.exp(difference) - math.exp(-1)) / (math.e - math.exp(-1))


def rank(
    synthetic: SyntheticSet,
    dataset: Dataset,
    recipe: EvalRecipe = MTT_PROTOCOL,
    model: str | Sequence[str] | None = None,
    seeds: int = 5,
    out: Path | None = None,
    *,
    gamma: float = 0.5,
    seed: int = 0,
    rates: Mapping[str, SearchedRate] | None = None,
    workers: int | None = None,
    random_labels: RandomLabels = "same",
) -> Ranking:
    """The scores of a distilled set on one network and on the test images.

    Networks on real images use the recipe's learning rate or 0.01; the authors search one. The authors take the best
    test accuracy of each training, this function the last one.

    Args:
        synthetic: The distilled set.
        dataset: The data that it belongs to.
        recipe: The protocol.
        model: Names of networks and of pools, of which the first is taken. None: the student of the set.
        seeds: Networks of each row.
        out: A folder whose cache is used and added to, and which gets `ranking.json`. None: nothing is written.
        gamma: γ, the weight of accuracy with augmentation, from 0 to 1.
        seed: Of networks and draws.
        rates: What `search_rates` found, by network: the rate at which it learns from the set.
        workers: Networks, of any row, that a CPU trains in parallel. None: one for each core.
        random_labels: The labels of random images: same, as on the leaderboard, gives them the soft labels of the set,
            image for image within a class; own leaves them their hard labels. The authors' code has the
            teacher of the set's soft labels label the random images, where there is one; a set alone has no teacher.

    Raises:
        InputError: For a γ outside [0, 1], for a set that does not belong to `dataset`, and where another process is
            writing to `out`.
    """
    check_gamma(gamma)
    recipe, (name, *_) = settled(synthetic, dataset, recipe, model)
    rate = (rates or {}).get(name)
    if rate:
        synthetic = rate.with_best_rate(synthetic)
    plain = recipe.replace(augmentation="")
    rows = {
        "synthetic": synthetic_row(name, synthetic, recipe),
        "synthetic_hard": synthetic_row(name, hardened(synthetic), recipe),
        "synthetic_plain": synthetic_row(name, synthetic, plain),
        "random": _random_row(name, synthetic, dataset, recipe, seed, random_labels),
        "random_plain": _random_row(name, synthetic, dataset, plain, seed, random_labels),
        "full": baseline_row("full", name, synthetic.ipc, dataset, recipe, seed),
    }
    # For a set with hard labels "synthetic_hard" equals "synthetic", and for a protocol without augmentation the plain
    # rows equal the augmented ones: equal rows are trained once.
    distinct = {_cache_key(row): row for row in rows.values()}
    testing = Testing(dataset, "test", seed, seeds)
    with NetworkCache.reserved(out) as cache:
        trained = train_rows(list(distinct.values()), testing, cache, workers)
    finals = {_cache_key(each.row): each.entry().final for each in trained}
    measured = Measured.model_validate({name: finals[_cache_key(row)] for name, row in rows.items()})
    ranking = Ranking(
        recipe=recipe,
        model=name,
        subject=SetInfo.of(synthetic),
        accuracies=measured,
        rate=rate,
        gamma=gamma,
        random_labels=random_labels,
    )
    if out is not None:
        ranking.write(RunDir(out).ranking)
    return ranking


@dataclass(frozen=True)
class Relabelled:
    """Random real images of one network's draw, with the labels of `synthetic`."""

    images: Draw
    synthetic: SyntheticSet

    def __call__(self, k: int) -> SyntheticSet:
        """The images of draw k. Both sets are grouped by class, so that label n and image n are of the same class."""
        drawn = self.images(k)
        targets = self.synthetic.targets.to(drawn.images.device)
        return replace(drawn, labels=self.synthetic.labels, targets=targets)


def _random_row(
    name: str, synthetic: SyntheticSet, dataset: Dataset, recipe: EvalRecipe, seed: int, labels: RandomLabels
) -> TableRow:
    row = baseline_row("random", name, synthetic.ipc, dataset, recipe, seed)
    if labels == "own" or synthetic.certain:
        return row
    source = Relabelled(Draw("random", dataset, synthetic.ipc, seed), synthetic)
    return replace(row, source=source, content=f"{row.content}, with the labels of {content(synthetic)}")


def check_gamma(gamma: float) -> None:
    """Raise InputError for a γ outside [0, 1]."""
    if not 0 <= gamma <= 1:
        raise InputError(f"--gamma {gamma:g} was given; choose 0 (only without augmentation) to 1 (only with it).")


def hardened(synthetic: SyntheticSet) -> SyntheticSet:
    """The set with one-hot rows of the most probable class; the set itself where its labels are one-hot already."""
    if synthetic.certain:
        return synthetic
    return replace(synthetic, labels="hard", targets=one_hot(synthetic.hard_labels, len(synthetic.classes)))


def ranking_table(ranking: Ranking) -> Tabulation:
    """The four scores and the accuracies that they are computed from."""
    reached = {name: spread(values) for name, values in ranking.accuracies}
    weight, gamma = ranking.weight, ranking.gamma
    with_augmentation = f"{reached['synthetic']} − {reached['random']}"
    without = f"{reached['synthetic_plain']} − {reached['random_plain']}"
    rows = (
        (
            "HLR",
            _percent(ranking.hlr),
            f"full data {reached['full']} − synthetic with hard labels {reached['synthetic_hard']}",
        ),
        (
            "IOR",
            _percent(ranking.ior),
            f"synthetic with {LABELS[ranking.subject.labels]} {reached['synthetic']} − random with "
            f"{_label_text(ranking)} {reached['random']}",
        ),
        ("LRS", _share(ranking.lrs), f"α = {weight:g} IOR − {1 - weight:g} HLR, of accuracies from 0 to 1"),
        (
            "ARS",
            _share(ranking.ars),
            f"β = {gamma:g} ({with_augmentation}, augmented) + {1 - gamma:g} ({without}, without)",
        ),
    )
    columns = Column("score", left_aligned=True), Column("value", bold=True), Column("from", left_aligned=True)
    caption = (
        "DD-Ranking (arXiv 2505.13300), LRS and ARS from 0 to 1: (e^x − e^−1) / (e − e^−1) of α and β. "
        f"{ranking.model}. {protocol_text(ranking.recipe, 'test', ranking.rate is not None)}, last epoch; "
        f"random images have {_label_text(ranking)} and a fixed learning rate; {networks_text([len(ranking.lrs)])}."
    )
    return Tabulation(columns, rows, caption, "Label-robust and augmentation-robust scores")


def _label_text(ranking: Ranking) -> str:
    """The labels of the random images, as text for captions."""
    if ranking.random_labels == "same" and ranking.subject.labels != "hard":
        return f"the same {LABELS[ranking.subject.labels]}"
    return "their own labels"


def _cache_key(row: TableRow) -> tuple[str, str]:
    return row.content, row.recipe.model_dump_json()


def _difference(more: Sequence[float], less: Sequence[float]) -> tuple[float, ...]:
    return tuple((first - second) / 100 for first, second in zip(more, less, strict=True))


def _percent(values: Sequence[float]) -> str:
    return spread([100 * value for value in values])


def _share(values: Sequence[float]) -> str:
    return spread(values, digits=3)
