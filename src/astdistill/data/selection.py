"""Selection of images: by class, the first images of each class, stratified held-out parts, and representatives of a
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
"""A class given as a number; negative numbers match too, and are rejected as out of range."""


@dataclass(frozen=True)
class ClassChoice:
    """The classes to keep: those in `classes` (all names or all numbers), in that order, or the first `first` ones; all
    of them if both are None."""

    classes: tuple[str, ...] | None = None
    first: int | None = None


@dataclass(frozen=True)
class SelectedRows:
    """The selected rows, ascending, and their labels in the new numbering."""

    rows: Rows
    labels: Int[Tensor, " rows"]


@dataclass(frozen=True)
class Division:
    """Two disjoint sets of rows, each ascending, that together are all rows."""

    stay: Int[Tensor, " stay"]
    held_out: Int[Tensor, " out"]


def chosen_labels(names: Sequence[str], choice: ClassChoice) -> list[int]:
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
    labels = _find_labels(names, choice.classes)
    duplicate = next((names[label] for label, count in Counter(labels).items() if count > 1), None)
    if duplicate is not None:
        raise InputError(f"Class '{duplicate}' is asked for twice in --data.classes; name every class once.")
    if len(labels) < 2:
        named = " ".join(choice.classes) or "no class"
        raise InputError(
            f"--data.classes names {named}; name two or more classes, for example --data.classes {' '.join(names[:2])}."
        )
    return labels


def renumbered(labels: Labels, chosen: Sequence[int]) -> SelectedRows:
    """The rows whose label is in `chosen`, relabelled by its index in `chosen`. Rows without a label (−1) are
    dropped."""
    largest = max([*chosen, int(labels.max()) if len(labels) else 0])
    new_label = torch.full((largest + 1,), -1, dtype=torch.int64)
    new_label[list(chosen)] = torch.arange(len(chosen))
    # An index below 0 would count from the end.
    relabelled = torch.where(labels < 0, -1, new_label[labels.clamp(min=0)])
    rows = (relabelled >= 0).nonzero().squeeze(1)
    return SelectedRows(rows, relabelled[rows])


def with_classes(raw: RawData, choice: ClassChoice) -> RawData:
    """The set with only the chosen classes."""
    labels, summary = chosen_labels(raw.classes, choice), raw.summary + Summary(guessed=by_number(raw.classes, choice))

    def select(split: Split) -> Split:
        chosen = renumbered(split.labels, labels)
        return Split(rows_of(split, chosen.rows).images, chosen.labels)

    test = None if raw.test is None else select(raw.test)
    classes = tuple(raw.classes[label] for label in labels)
    return replace(raw, classes=classes, train=select(raw.train), test=test, summary=summary)


def first_of_each(labels: Labels, classes: int, per_class: int | None) -> Rows:
    """The rows of the first `per_class` images of every class in stored order, ascending; all rows for None."""
    if per_class is None:
        return torch.arange(len(labels))
    rows = [(labels == label).nonzero().squeeze(1)[:per_class] for label in range(classes)]
    return torch.cat(rows).sort().values


def stratified(labels: Labels, classes: int, count: int, seed: int, purpose: str) -> Division:
    """Hold out `count` rows drawn at random, of each class its share to within one image.

    The odd images come from the classes with the largest remainders, at a tie from the earlier class.
    """
    sizes = torch.bincount(labels, minlength=classes)
    exact = [size * count / max(1, len(labels)) for size in sizes.tolist()]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(classes), key=lambda label: (counts[label] - exact[label], label))
    for label in by_remainder[: count - sum(counts)]:
        counts[label] += 1
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label, number in enumerate(counts):
        rows = (labels == label).nonzero().squeeze(1)
        mask[rows[torch.randperm(len(rows), generator=rng(seed, purpose, label))[:number]]] = True
    return Division((~mask).nonzero().squeeze(1), mask.nonzero().squeeze(1))


def _find_labels(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """The labels of `classes`: by name if all of them are names, else by number."""
    others = [each for each in classes if each not in names]
    if not others:
        return [list(names).index(each) for each in classes]
    for each in others:
        if not NUMBER.fullmatch(each):
            raise unknown("class", each, names)
    named = [each for each in classes if not NUMBER.fullmatch(each)]
    if named:
        raise InputError(
            f"--data.classes mixes names ({named[0]}) and numbers ({others[0]}); give all of them by name, or all by "
            f"number, 0..{len(names) - 1}."
        )
    out_of_range = [each for each in classes if not 0 <= int(each) < len(names)]
    if out_of_range:
        raise InputError(f"There is no class number {out_of_range[0]}; the classes are numbered 0..{len(names) - 1}.")
    return [int(each) for each in classes]


def by_number(names: Sequence[str], choice: ClassChoice) -> tuple[str, ...]:
    """A note if classes are chosen by number and some of the numbers are also names; else empty."""
    typed = choice.classes or ()
    named = [each for each in typed if each in names]
    if not named or len(named) == len(typed):
        return ()
    text = " ".join(names[label] for label in _find_labels(names, typed))
    return (
        f"--data.classes {' '.join(typed)} by number, although '{named[0]}' is a name too: classes {text} (otherwise: "
        "give names alone)",
    )


@dataclass(frozen=True)
class Clustering:
    """The cluster of every image `[N]` int64, and the image that represents each cluster, `[count]` int64."""

    clusters: Int[Tensor, " N"]
    nearest: Int[Tensor, " count"]


def representatives(features: Float[Tensor, "N D"], count: int, seed: int) -> Int[Tensor, " count"]:
    """The indices `[count]` int64 of the images that represent all N, from `clustered`."""
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
    centres, clusters = _fit_clusters(points, count, seed)
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
    """Limit the libraries that scikit-learn's clusterings compute with to one thread: parallel sums would change the
    last bits."""
    return _thread_controller().limit(limits=1)


@cache  # finding the libraries takes longer than a small clustering
def _thread_controller() -> ThreadpoolController:
    import sklearn.cluster  # noqa: F401  (loads the libraries)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _fit_clusters(points: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres `[count, D]` and the cluster of every point `[N]`, on one thread: parallel sums would change the last
    bits."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    state = derive(seed, "representatives") & 0xFFFFFFFF
    with warnings.catch_warnings(), one_thread():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the caller handles fewer distinct points than clusters
        k_means: Any = KMeans  # its annotations allow only the text 'auto' for n_init
        fitted = k_means(n_clusters=count, n_init=4, random_state=state).fit(points)
    return fitted.cluster_centers_, fitted.labels_
