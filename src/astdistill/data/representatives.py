"""A few real images that stand for a class: the ones nearest the centres of K-means."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import InputError
from ..seeds import derive


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

    K-means with k = count on the features (AST, arXiv 2310.10541, takes an expert's logits of one class); for each centre
    the image nearest to it within its own cluster, so indices come in the order of the centres. Where fewer than `count`
    images are distinct, empty clusters take the nearest image not used yet. Raises InputError unless 1 ≤ count ≤ N.
    """
    if not 1 <= count <= len(features):
        raise InputError(f"{count} representatives of {len(features)} images were asked for; choose between 1 and {len(features)}.")
    points = features.detach().to("cpu", torch.float64).flatten(1).numpy()
    if not np.isfinite(points).all():
        raise InputError("Representatives were asked for features that are not finite; check the expert that made them.")
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


def _clusters(points: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres `[count, D]` and the cluster of every point `[N]`, on one thread: parallel sums would change the last bits."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    state = derive(seed, "representatives") & 0xFFFFFFFF
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters is answered by the caller
        means: Any = KMeans  # its annotations allow only the text 'auto' for n_init
        found = means(n_clusters=count, n_init=4, random_state=state).fit(points)
    return found.cluster_centers_, found.labels_
