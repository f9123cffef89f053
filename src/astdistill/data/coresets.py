"""A few points that stand for many, chosen greedily: herding and k-centre. Memory is bounded: of many points only a
block is there as float64 numbers at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..runtime.errors import InputError

BLOCK = 1 << 26
"""Bytes of float64 numbers that are computed with at once."""
KEPT = 1 << 28
"""Bytes of such numbers that are kept from one pass over the points to the next; of more, all are read again."""
ALIKE = 1e-9
"""Values this near to each other, as a share of the largest one, are equal: sums differ in their last bits between
machines, choices must not."""


@dataclass(frozen=True)
class Points:
    """N points that are read in blocks."""

    count: int
    """N."""
    read: Callable[[Int[Tensor, " B"]], Float[Tensor, "B ..."]]
    """The points of these numbers (on the CPU), on any device and of any shape."""

    @staticmethod
    def of(points: Float[Tensor, "N ..."]) -> Points:
        """Points that are all there."""
        return Points(len(points), lambda numbers: points[numbers])

    _kept: list[Tensor] = field(default_factory=list)

    def __getitem__(self, number: int) -> Float[Tensor, " D"]:
        return self._block(torch.tensor([number]))[0]

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
        if self._kept:
            yield from self._kept
            return
        size = 8 * math.prod(self.read(torch.arange(1)).shape)
        blocks = map(self._block, torch.arange(self.count).split(max(1, BLOCK // size)))
        if size * self.count > KEPT:
            yield from blocks
            return
        self._kept.extend(blocks)
        yield from self._kept

    def _block(self, numbers: Tensor) -> Tensor:
        return self.read(numbers).detach().to("cpu", torch.float64).flatten(1)


def herding(points: Points, count: int) -> Int[Tensor, " count"]:
    """The numbers of `count` points, in the order of their choice: each brings the mean of those chosen nearest to the
    mean of all (Welling 2009; without replacement, as iCaRL, arXiv 1611.07725, takes it).

    Among equals the first one is taken. Raises InputError unless 1 ≤ count ≤ N.
    """
    _check(points, count)
    mean = points.mean()
    # ‖μ − (s + x)/n‖² n² = ‖n μ − s‖² + ‖x‖² − 2 n ⟨μ, x⟩ + 2 ⟨s, x⟩, of which the first term is the same for all x
    norms, along = points.norms(), points.along(mean)
    cross, scale = torch.zeros_like(norms), norms.max() + float(mean.square().sum())
    free, chosen = torch.ones(points.count, dtype=torch.bool), []
    for number in range(1, count + 1):
        cost = norms - 2 * number * along + 2 * cross
        chosen.append(_first_least(cost, free, number * scale))
        free[chosen[-1]] = False
        cross = cross + points.along(points[chosen[-1]])
    return torch.tensor(chosen)


def k_centre(points: Points, count: int) -> Int[Tensor, " count"]:
    """The numbers of `count` points, in the order of their choice: first the one nearest to the mean of all, then
    always the one farthest from those chosen (Gonzalez 1985; as a coreset, Sener & Savarese, arXiv 1708.00489).

    Among equals the first one is taken. Raises InputError unless 1 ≤ count ≤ N.
    """
    _check(points, count)
    norms, mean = points.norms(), points.mean()
    free, scale = torch.ones(points.count, dtype=torch.bool), norms.max() + mean.square().sum()
    chosen = [_first_least(norms - 2 * points.along(mean), free, scale)]
    nearest = torch.full_like(norms, math.inf)
    while len(chosen) < count:
        last = chosen[-1]
        free[last] = False
        nearest = torch.minimum(nearest, norms + norms[last] - 2 * points.along(points[last]))
        chosen.append(_first_least(-nearest, free, scale))
    return torch.tensor(chosen)


def _first_least(values: Float[Tensor, " N"], free: Tensor, scale: Tensor) -> int:
    """The first number among the `free` ones whose value is the least, to within rounding of `scale`."""
    values = values.masked_fill(~free, math.inf)
    return int((free & (values <= values.min() + ALIKE * scale)).nonzero()[0, 0])


def _check(points: Points, count: int) -> None:
    if not 1 <= count <= points.count:
        raise InputError(
            f"{count} of {points.count} images were to be chosen; choose between 1 and {points.count} images per class."
        )
    if not bool(points.mean().isfinite().all()):
        raise InputError("Images were to be chosen among some that are not finite; check the data that they come from.")
