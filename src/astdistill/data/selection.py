"""Which images are kept: classes, the first so many of each, stratified parts held out, and a few that stand for a
class."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..runtime.errors import InputError, unknown
from ..runtime.seeds import derive, rng
from ..runtime.shapes import Labels
from .dataset import RawData, Split, Summary, rows_of

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

Rows = Int[Tensor, " rows"]
"""Indices of some images."""
NUMBER = re.compile(r"-?\d+")
"""A class by its number; one below 0 is none."""


@dataclass(frozen=True)
class ClassChoice:
    """Keep the classes all named or all numbered in `classes`, in that order, or the `first` so many; all of them if
    both are None."""

    classes: tuple[str, ...] | None = None
    first: int | None = None


@dataclass(frozen=True)
class SelectedRows:
    """The rows that stay, ascending, and their labels in the new numbering."""

    rows: Rows
    labels: Int[Tensor, " rows"]


@dataclass(frozen=True)
class Division:
    """Two disjoint sets of rows, each ascending, that together are all of them."""

    stay: Int[Tensor, " stay"]
    held_out: Int[Tensor, " out"]


def kept_labels(names: Sequence[str], choice: ClassChoice) -> list[int]:
    """The old labels of the chosen classes, in their new order. Raises InputError for an unknown, repeated or missing
    class."""
    if choice.classes is not None and choice.first is not None:
        raise InputError(
            f"Both classes {', '.join(choice.classes)} and the first {choice.first} were asked for; give only one of "
            f"the two."
        )
    if choice.first is not None:
        if choice.first > len(names):
            raise InputError(
                f"The first {choice.first} classes were asked for, but there are {len(names)}; lower "
                f"--data.first-classes."
            )
        return list(range(choice.first))
    if choice.classes is None:
        return list(range(len(names)))
    kept = _labels(names, choice.classes)
    twice = next((names[label] for label, count in Counter(kept).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"Class '{twice}' is asked for twice in --data.classes; name every class once.")
    if len(kept) < 2:
        named = " ".join(choice.classes) or "no class"
        raise InputError(
            f"--data.classes names {named}; name two or more classes, for example --data.classes {' '.join(names[:2])}."
        )
    return kept


def renumbered(labels: Labels, kept: Sequence[int]) -> SelectedRows:
    """The rows whose label is in `kept`, relabelled by its place there. A missing label, −1, is in none."""
    largest = max([*kept, int(labels.max()) if len(labels) else 0])
    place = torch.full((largest + 1,), -1, dtype=torch.int64)
    place[list(kept)] = torch.arange(len(kept))
    new = torch.where(labels < 0, -1, place[labels.clamp(min=0)])  # an index below 0 would count from the end
    rows = (new >= 0).nonzero().squeeze(1)
    return SelectedRows(rows, new[rows])


def with_classes(raw: RawData, choice: ClassChoice) -> RawData:
    """The set with only the chosen classes."""
    kept, summary = kept_labels(raw.classes, choice), raw.summary + Summary(guessed=by_number(raw.classes, choice))

    def part(whole: Split) -> Split:
        chosen = renumbered(whole.labels, kept)
        return Split(rows_of(whole, chosen.rows).images, chosen.labels)

    test = None if raw.test is None else part(raw.test)
    classes = tuple(raw.classes[label] for label in kept)
    return replace(raw, classes=classes, train=part(raw.train), test=test, summary=summary)


def first_of_each(labels: Labels, classes: int, per_class: int | None) -> Rows:
    """The rows of the first `per_class` images of every class in stored order, ascending; all rows for None."""
    if per_class is None:
        return torch.arange(len(labels))
    rows = [(labels == label).nonzero().squeeze(1)[:per_class] for label in range(classes)]
    return torch.cat(rows).sort().values


def stratified(labels: Labels, classes: int, count: int, seed: int, purpose: str) -> Division:
    """`count` rows drawn at random so that every class gives its share to within one image.

    Largest remainders get the odd images, the earlier class at a tie.
    """
    sizes = torch.bincount(labels, minlength=classes)
    exact = [size * count / max(1, len(labels)) for size in sizes.tolist()]
    take = [int(share) for share in exact]
    by_remainder = sorted(range(classes), key=lambda label: (take[label] - exact[label], label))
    for label in by_remainder[: count - sum(take)]:
        take[label] += 1
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label, number in enumerate(take):
        rows = (labels == label).nonzero().squeeze(1)
        held[rows[torch.randperm(len(rows), generator=rng(seed, purpose, label))[:number]]] = True
    return Division((~held).nonzero().squeeze(1), held.nonzero().squeeze(1))


def _labels(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """The labels of all that are wanted: by name where all are names, else by number."""
    strange = [each for each in wanted if each not in names]
    if not strange:
        return [list(names).index(each) for each in wanted]
    for each in strange:
        if not NUMBER.fullmatch(each):
            raise unknown("class", each, names)
    called = [each for each in wanted if not NUMBER.fullmatch(each)]
    if called:
        raise InputError(
            f"--data.classes mixes names ({called[0]}) and numbers ({strange[0]}); give all of them by name, or all by "
            f"number, 0..{len(names) - 1}."
        )
    outside = [each for each in wanted if not 0 <= int(each) < len(names)]
    if outside:
        raise InputError(f"There is no class number {outside[0]}; the classes are numbered 0..{len(names) - 1}.")
    return [int(each) for each in wanted]


def by_number(names: Sequence[str], choice: ClassChoice) -> tuple[str, ...]:
    """A note where classes are chosen by numbers, of which some are also names."""
    wanted = choice.classes or ()
    both = [each for each in wanted if each in names]
    if not both or len(both) == len(wanted):
        return ()
    meant = " ".join(names[label] for label in _labels(names, wanted))
    return (
        f"--data.classes {' '.join(wanted)} by number, although '{both[0]}' is a name too: classes {meant} (otherwise: "
        "give names alone)",
    )


@dataclass(frozen=True)
class Clustering:
    """The cluster of every image `[N]` int64, and the image that represents each cluster, `[count]` int64."""

    clusters: Int[Tensor, " N"]
    nearest: Int[Tensor, " count"]


def representatives(features: Float[Tensor, "N D"], count: int, seed: int) -> Int[Tensor, " count"]:
    """The indices `[count]` int64 of the images that represent all N: those of `clustered`."""
    return clustered(features, count, seed).nearest


def clustered(features: Float[Tensor, "N D"], count: int, seed: int) -> Clustering:
    """The clusters of the N images, and one image that represents each, no image twice.

    K-means with k = count on the features (AST, arXiv 2310.10541, takes an expert's logits of one class); for each
    centre the image nearest to it within its own cluster, so indices come in the order of the centres. Where fewer than
    `count` images are distinct, empty clusters take the nearest image not used yet. Raises InputError unless 1 ≤ count
    ≤ N.
    """
    if not 1 <= count <= len(features):
        raise InputError(
            f"{count} representatives of {len(features)} images were asked for; choose between 1 and {len(features)}."
        )
    points = features.detach().to("cpu", torch.float64).flatten(1).numpy()
    if not np.isfinite(points).all():
        raise InputError(
            "Representatives were asked for features that are not finite; check the expert that made them."
        )
    centres, clusters = _clusters(points, count, seed)
    distances = np.stack([np.square(points - centre).sum(axis=1) for centre in centres])
    free = np.ones(len(points), dtype=bool)
    chosen = np.full(count, -1)
    for own_only in (True, False):  # own clusters first, so that an empty one cannot take another's only image
        for centre in np.flatnonzero(chosen < 0):
            allowed = free & (clusters == centre) if own_only else free
            if allowed.any():
                chosen[centre] = np.flatnonzero(allowed)[distances[centre, allowed].argmin()]
                free[chosen[centre]] = False
    return Clustering(torch.from_numpy(clusters.astype(np.int64)), torch.from_numpy(chosen.astype(np.int64)))


def one_thread() -> AbstractContextManager[Any]:
    """One thread for the libraries that scikit-learn's clusterings compute with: parallel sums would change the last
    bits."""
    return _libraries().limit(limits=1)


@cache  # looking for them takes longer than a small clustering
def _libraries() -> ThreadpoolController:
    import sklearn.cluster  # noqa: F401  (with all that it loads)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _clusters(points: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres `[count, D]` and the cluster of every point `[N]`, on one thread: parallel sums would change the last
    bits."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    state = derive(seed, "representatives") & 0xFFFFFFFF
    with warnings.catch_warnings(), one_thread():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # fewer distinct points than clusters is answered by the caller
        means: Any = KMeans  # its annotations allow only the text 'auto' for n_init
        fitted = means(n_clusters=count, n_init=4, random_state=state).fit(points)
    return fitted.cluster_centers_, fitted.labels_
