"""Greedy choices against the obvious ones: every candidate tried in float64, one at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from astdistill.data import coresets
from astdistill.data.coresets import Points, herding, k_centre
from astdistill.runtime.errors import InputError


def herded(points: np.ndarray, count: int) -> list[int]:
    """Each choice by the mean that it would give, written out for every candidate."""
    mean, chosen = points.mean(axis=0), []
    for _ in range(count):
        candidates = [number for number in range(len(points)) if number not in chosen]
        costs = [np.square(points[[*chosen, number]].mean(axis=0) - mean).sum() for number in candidates]
        chosen.append(candidates[next(k for k, cost in enumerate(costs) if cost <= min(costs) + 1e-12)])
    return chosen


def covered(points: np.ndarray, count: int) -> list[int]:
    """The farthest candidate from its nearest chosen one, written out; the first is nearest to the mean."""
    chosen: list[int] = []
    for _ in range(count):
        candidates = [number for number in range(len(points)) if number not in chosen]
        if not chosen:
            costs = [np.square(points[number] - points.mean(axis=0)).sum() for number in candidates]
        else:
            costs = [-min(np.square(points[number] - points[other]).sum() for other in chosen) for number in candidates]
        chosen.append(candidates[next(k for k, cost in enumerate(costs) if cost <= min(costs) + 1e-12)])
    return chosen


BOTH = pytest.mark.parametrize(("choose", "reference"), [(herding, herded), (k_centre, covered)])


@BOTH
@pytest.mark.parametrize("seed", range(5))
def test_choices_are_those_of_trying_every_candidate(choose, reference, seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(40, 2, 3, 3))
    expected = reference(points.reshape(40, -1), 40)
    for count in (1, 7, 40):
        assert choose(Points.of(torch.from_numpy(points)), count).tolist() == expected[:count]


@BOTH
def test_of_equal_images_the_first_one_is_taken_and_none_twice(choose, reference) -> None:
    corners = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
    points = np.concatenate([corners, corners[::-1], corners])
    chosen = choose(Points.of(torch.from_numpy(points)), 24).tolist()
    assert sorted(chosen) == list(range(24))
    assert chosen == reference(points, 24)
    alike = torch.full((5, 4), 0.1)
    assert choose(Points.of(alike), 5).tolist() == [0, 1, 2, 3, 4]


@BOTH
def test_the_block_decides_nothing_and_bounds_what_is_read_at_once(
    choose, reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = torch.randn(60, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    whole, read = choose(Points.of(points), 9).tolist(), []

    def recorded(numbers: Tensor) -> Tensor:
        read.append(len(numbers))
        return points[numbers]

    monkeypatch.setattr(coresets, "BLOCK", 7 * 16 * 8)
    monkeypatch.setattr(coresets, "KEPT", 0)
    assert choose(Points(60, recorded), 9).tolist() == whole
    assert max(read) == 7


@BOTH
def test_what_cannot_be_chosen_is_refused(choose, reference) -> None:
    points = torch.randn(6, 3)
    for count in (0, 7):
        with pytest.raises(InputError, match="choose between 1 and 6"):
            choose(Points.of(points), count)
    with pytest.raises(InputError, match="not finite"):
        choose(Points.of(points.index_fill(0, torch.tensor([2]), float("nan"))), 2)


def test_the_known_choices_of_five_numbers() -> None:
    points = torch.tensor([[0.0], [1.0], [2.0], [3.0], [10.0]])  # mean 3.2
    assert herding(Points.of(points), 4).tolist() == [3, 2, 1, 4]
    assert k_centre(Points.of(points), 3).tolist() == [3, 4, 0]
