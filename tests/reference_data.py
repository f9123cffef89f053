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
            result[i, j] = math.fsum((float(row[i]) - means[i]) * (float(row[j]) - means[j]) for row in rows) / (len(rows) - 1)
    return result


def nearest_in_own_cluster(points: Tensor, centres: Tensor, clusters: Tensor) -> list[int]:
    """For every centre the member of its cluster with the smallest distance, the first at a tie; no cluster may be empty."""
    chosen = []
    for number, centre in enumerate(centres):
        best, smallest = -1, math.inf
        for index, point in enumerate(points):
            distance = float(((point.double() - centre.double()) ** 2).sum())
            if int(clusters[index]) == number and distance < smallest:
                best, smallest = index, distance
        chosen.append(best)
    return chosen
