"""Fitting ZCA whitening, and what that costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..runtime import progress, status
from ..runtime.errors import InputError
from .digests import Rows
from .preprocessing import Preprocessing, triple
from .statistics import EXACT_ROWS, covariance

LARGEST_ZCA = 64 * 64 * 3
"""Above this many values per image the D×D matrix passes 1.2 GB and its eigenvectors take hours."""
TOLD = 32 * 32 * 3
"""From so many values per image on, the cost is said before it is spent."""
TRIED = 512
"""The side of the matrix that is timed: half a second for the trial at most."""


@dataclass(frozen=True)
class Cost:
    """Seconds, and bytes of memory at the peak."""

    seconds: float
    memory: int


def fit_zca(images01: Rows, eps: float = 0.1) -> Preprocessing:
    """ZCA whitening fitted on the images, `[N, C, H, W]` uint8, or float in [0, 1]; equal to kornia's
    `ZCAWhitening(eps=0.1)`.

    x ↦ U (Λ + eps)^(−½) Uᵀ (x − μ) with U Λ Uᵀ the covariance over N − 1. The images are read in blocks. From 3,072
    values per image on, a line says first what it will take. Raises InputError for fewer than two images, and above 64
    px in colour, where the matrix no longer fits.
    """
    count, shape = images01.shape[0], triple(images01.shape[1:])
    size = math.prod(shape)
    if count < 2:
        raise InputError(
            f"ZCA whitening was asked for {count} training image(s); it needs at least 2, so use --data.whiten "
            f"standard."
        )
    if size > LARGEST_ZCA:
        raise InputError(
            f"ZCA whitening of {shape} images needs a {size}×{size} matrix; use --data.whiten standard, or --data.size "
            f"64 or less."
        )
    if size >= TOLD and not progress.Output.quiet:
        cost = zca_cost(count, size)
        progress.console().print(
            f"Fitting ZCA: {count:,} images of {size:,} values, a matrix of {size:,}×{size:,}; about "
            f"{status.duration(cost.seconds)}, "
            f"{status.size(cost.memory)} of memory.",
            highlight=False,
        )
    moments = covariance(images01)
    values, vectors = torch.linalg.eigh(moments.covariance)
    return Preprocessing(
        "zca",
        shape,
        mean=moments.mean.float(),
        eigenvalues=values.float(),
        eigenvectors=vectors.float().contiguous(),
        eps=float(eps),
        statistics=moments.digest,
    )


def zca_cost(count: int, size: int) -> Cost:
    """What `fit_zca` takes for `count` uint8 images of `size` values, from the same operations on a matrix of 512×512,
    timed just now.

    Products grow with D², the eigenvectors with D³. Memory: the covariance, the copy that becomes its eigenvectors and
        LAPACK's workspace
    of two more (syevd) in float64, with what else is alive then: 5.25 D² of them were seen at D = 2,028, and 5.5 are
    counted.
    """
    tried = min(size, TRIED)
    block = torch.linspace(-1, 1, EXACT_ROWS * tried).square().sin().view(EXACT_ROWS, tried)
    products = torch.eye(tried, dtype=torch.float64)

    def multiply() -> object:
        return products.add_(block.T @ block)

    growth = size / tried
    multiplied, solved = _timed(multiply), _timed(lambda: torch.linalg.eigh(products))
    seconds = math.ceil(count / EXACT_ROWS) * multiplied * growth**2 + solved * growth**3
    return Cost(seconds, 44 * size**2 + 4 * min(count, EXACT_ROWS) * size)


def _timed(operation: Callable[[], object]) -> float:
    """Seconds for which this thread computed in the faster of two runs after a warm-up: what it takes beside no other
    work."""
    taken = []
    for _ in range(3):
        began = time.thread_time()
        operation()
        taken.append(time.thread_time() - began)
    return min(taken[1:])
