"""Slow and obvious forms of what the data room computes."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def covariance_by_pairs(images: Tensor) -> Tensor:
    """The covariance over N − 1 of flattened images in [0, 1], one pair of coordinates at a time."""
    rows = images.flatten(1).double()
    means = [sum(float(value) for value in rows[:, i]) / len(rows) for i in range(rows.shape[1])]
    result = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    for i in range(rows.shape[1]):
        for j in range(rows.shape[1]):
            result[i, j] = math.fsum((float(row[i]) - means[i]) * (float(row[j]) - means[j]) for row in rows) / (
                len(rows) - 1
            )
    return result


def nearest_in_own_cluster(points: Tensor, centres: Tensor, clusters: Tensor) -> list[int]:
    """For every centre the member of its cluster with the smallest distance, the first at a tie; no cluster may be
    empty."""
    chosen = []
    for number, centre in enumerate(centres):
        best, smallest = -1, math.inf
        for index, point in enumerate(points):
            distance = float(((point.double() - centre.double()) ** 2).sum())
            if int(clusters[index]) == number and distance < smallest:
                best, smallest = index, distance
        chosen.append(best)
    return chosen


def resized_slowly(image: Tensor, size: int) -> Tensor:
    """One image `[C, h, w]` in float64 with its short side at `size`, long side in proportion, and the middle square
    cut out.

    Every pixel is the mean of those under a triangle around its place, as wide as one pixel of the coarser of the two
    grids.
    """
    short = min(image.shape[1:])
    height, width = (max(size, round(length * size / short)) for length in image.shape[1:])
    small = _weights(image.shape[1], height) @ image.double() @ _weights(image.shape[2], width).T
    top, left = (height - size) // 2, (width - size) // 2
    return small[:, top : top + size, left : left + size]


def squashed_slowly(image: Tensor, size: int) -> Tensor:
    """One image `[C, h, w]` in float64 at `size` pixels a side, each a mean of the four pixels around its place.

    Pixel k covers k to k + 1 and has its value in the middle, k + ½; beyond the outermost middles the value stays.
    """
    channels, height, width = image.shape
    found = torch.zeros(channels, size, size, dtype=torch.float64)
    for row in range(size):
        top, bottom, down = _neighbours((row + 0.5) * height / size - 0.5, height)
        for column in range(size):
            left, right, across = _neighbours((column + 0.5) * width / size - 0.5, width)
            for channel in range(channels):
                corners = image[channel].double()
                upper = corners[top, left] * (1 - across) + corners[top, right] * across
                lower = corners[bottom, left] * (1 - across) + corners[bottom, right] * across
                found[channel, row, column] = upper * (1 - down) + lower * down
    return found


def _neighbours(place: float, length: int) -> tuple[int, int, float]:
    """The pixels before and after a place, and how far it lies from the one to the other."""
    place = min(max(place, 0.0), length - 1.0)
    before = math.floor(place)
    return before, min(before + 1, length - 1), place - before


def _weights(given: int, wanted: int) -> Tensor:
    """The share `[wanted, given]` of each given pixel in each wanted one."""
    step = given / wanted
    rows = []
    for place in range(wanted):
        centre = (place + 0.5) * step
        row = [max(0.0, 1 - abs(pixel + 0.5 - centre) / max(1.0, step)) for pixel in range(given)]
        rows.append([share / sum(row) for share in row])
    return torch.tensor(rows, dtype=torch.float64)
