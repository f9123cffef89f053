"""Plans: what they cover, and that they are a function of the generator."""

from __future__ import annotations

import torch

from astdistill.augment import STRATEGY
from astdistill.seeds import rng
from astdistill.unroll import draw_plan

SHAPE = (3, 8, 8)


def test_whole_set_when_it_fits() -> None:
    plan = draw_plan(3, 5, 8, "", SHAPE, rng(0, "plan"))
    assert plan.indices.tolist() == [[0, 1, 2, 3, 4]] * 3


def test_batches_are_cut_from_whole_passes() -> None:
    plan = draw_plan(6, 7, 3, "", SHAPE, rng(0, "plan"))
    assert plan.indices.shape == (6, 3)
    stream = plan.indices.flatten()
    assert sorted(stream[:7].tolist()) == list(range(7))
    assert sorted(stream[7:14].tolist()) == list(range(7))
    assert stream[:7].tolist() != stream[7:14].tolist()


def test_equal_generators_give_equal_plans() -> None:
    first, second, other = (draw_plan(4, 9, 4, STRATEGY, SHAPE, rng(seed, "plan")) for seed in (1, 1, 2))
    assert torch.equal(first.indices, second.indices)
    assert [draw.op for draw in first.augmentation] == [draw.op for draw in second.augmentation]
    assert not torch.equal(first.indices, other.indices)
