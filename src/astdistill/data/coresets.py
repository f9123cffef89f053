"""Greedy selection of coresets: herding and k-centre. Memory is bounded: for many points, only one block at a time is
held as float64 numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..runtime.errors import InputError

BLOCK = 1 << 26
"""Bytes of float64 numbers in one block."""
KEPT = 1 << 28
"""Bytes of float64 numbers that are kept between passes over the points; if there are more, all points are read again
in each pass."""
TOLERANCE = 1e-9
"""Values that differ by less than this fraction of the largest one count as equal: sums differ in their last bits
between machines, but choices must not."""


@dataclass(frozen=True)
class Points:
    """N points that are read in blocks."""

    count: int
    """N."""
    read: Callable[[Int[Tensor, " B"]], Float[Tensor, "B ..."]]
    """Returns the points at the given indices (on the CPU), on any device and of any shape."""

    @staticmethod
    def of(points: Float[Tensor, "N ..."]) -> Points:
        """Points that are all in memory."""
        return Points(len(points), lambda indices: points[indices])

    _cached_blocks: list[Tensor] = field(default_factory=list)

    def __getitem__(self, number: int) -> Float[Tensor, " D"]:
        return self._read_block(torch.tensor([number]))[0]

    def along(self, direction: Float[Tensor, " D"]) -> Float[Tensor, " N"]:
        """The scalar product of each point with one direction."""
        return torch.cat([block @ direction for block in self._blocks()])

    def norms(self) -> Float[Tensor, " N"]:
        """The squared length of each point."""
        return torch.cat([block.square().sum(dim=1) for block in self._blocks()])

    def mean(self) -> Float[Tensor, " D"]:
        """The mean of all points."""
        return torch.stack([block.sum(dim=0) for block in self._blocks()]).sum(dim=0) / self.count

    def _blocks(self) -> Iterator[Float[Tensor, "B D"]]:
        if self._cached_blocks:
            yield from self._cached_blocks
            return
        size = 8 * math.prod(self.read(torch.arange(1)).shape)
        blocks = map(self._read_block, torch.arange(self.count).split(max(1, BLOCK // size)))
        if size * self.count > KEPT:
            yield from blocks
            return
        self._cached_blocks.extend(blocks)
        yield from self._cached_blocks

    def _read_block(self, indices: Tensor) -> Tensor:
        return self.read(indices).detach().to("cpu", torch.float64).flatten(1)


def herding(points: Points, count: int) -> Int[Tensor, " count"]:
    """Indices of `count` points, in the order of their choice: each choice brings the mean of the chosen points nearest
    to the mean of all (Welling 2009; without replacement, as in iCaRL, arXiv 1611.07725).

    The first of equal candidates is taken. Raises InputError unless 1 ≤ count ≤ N.
    """
    _check(points, count)
    mean = points.mean()
    # ‖μ − (s + x)/n‖² n² = ‖n μ − s‖² + ‖x‖² − 2 n ⟨μ, x⟩ + 2 ⟨s, x⟩, of which the first term is the same for all x
    norms, along = points.norms(), points.along(mean)
    cross, scale = torch.zeros_like(norms), norms.max() + float(mean.square().sum())
    available, chosen = torch.ones(points.count, dtype=torch.bool), []
    for number in range(1, count + 1):
        cost = norms - 2 * number * along + 2 * cross
        chosen.append(_first_least(cost, available, number * scale))
        available[chosen[-1]] = False
        cross = cross + points.along(points[chosen[-1]])
    return torch.tensor(chosen)


def k_centre(points: Points, count: int) -> Int[Tensor, " count"]:
    """Indices of `count` points, in the order of their choice: first the point nearest to the mean of all, then always
    the one farthest from those chosen (Gonzalez 1985; as a coreset, Sener & Savarese, arXiv 1708.00489).

    The first of equal candidates is taken. Raises InputError unless 1 ≤ count ≤ N.
    """
    _check(points, count)
    norms, mean = points.norms(), points.mean()
    available, scale = torch.ones(points.count, dtype=torch.bool), norms.max() + mean.square().sum()
    chosen = [_first_least(norms - 2 * points.along(mean), available, scale)]
    nearest = torch.full_like(norms, math.inf)
    while len(chosen) < count:
        last = chosen[-1]
        available[last] = False
        nearest = torch.minimum(nearest, norms + norms[last] - 2 * points.along(points[last]))
        chosen.append(_first_least(-nearest, available, scale))
    return torch.tensor(chosen)


def _first_least(values: Float[Tensor, " N"], available: Tensor, scale: Tensor) -> int:
    """The first of the `available` indices with the minimum value, to within rounding of `scale`."""
    values = values.masked_fill(~available, math.inf)
    return int((available & (values <= values.min() + TOLERANCE * scale)).nonzero()[0, 0])


def _check(points: Points, count: int) -> None:
    if not 1 <= count <= points.count:
        raise InputError(
            f"{count} of {points.count} images were to be chosen; choose between 1 and {points.count} images per class."
        )
    if not bool(points.mean().isfinite().all()):
        raise InputError("Images were to be chosen among some that are not finite; check the data that they come from.")
