"""Plans: what they cover, and that they are a function of the generator."""

from __future__ import annotations

import torch

from astdistill.data.augmentation import STRATEGY
from astdistill.data.textures import Crops, TextureSpec
from astdistill.methods.unroll import draw_plan
from astdistill.runtime.seeds import rng

SHAPE = (3, 8, 8)


def test_whole_set_when_it_fits() -> None:
    plan = draw_plan(3, 5, 8, "", SHAPE, rng(0, "plan"))
    assert plan.rows(range(plan.steps)).tolist() == [[0, 1, 2, 3, 4]] * 3


def test_batches_are_cut_from_whole_passes() -> None:
    plan = draw_plan(6, 7, 3, "", SHAPE, rng(0, "plan"))
    assert plan.rows(range(plan.steps)).shape == (6, 3)
    stream = plan.rows(range(plan.steps)).flatten()
    assert sorted(stream[:7].tolist()) == list(range(7))
    assert sorted(stream[7:14].tolist()) == list(range(7))
    assert stream[:7].tolist() != stream[7:14].tolist()


def test_released_passes_begin_with_what_is_left_over() -> None:
    """Written out: a permutation is cut from its front, and the pieces are taken from the end of the list."""
    plan = draw_plan(7, 7, 3, "", SHAPE, rng(0, "plan"), released=True)
    generator, wanted = rng(0, "plan"), []
    while len(wanted) < 7:
        pieces = list(torch.randperm(7, generator=generator).split(3))
        while pieces:
            wanted.append(pieces.pop().tolist())
    assert [row.tolist() for row in plan.indices] == wanted[:7]
    assert [len(row) for row in plan.indices] == [1, 3, 3, 1, 3, 3, 1]
    images = torch.zeros(7, *SHAPE)
    assert plan.portions(range(7), images) == [range(1), range(1, 3), range(3, 4), range(4, 6), range(6, 7)]
    assert plan.rows(range(4, 6)).tolist() == wanted[4:6]


def test_released_passes_of_whole_batches_are_the_usual_ones() -> None:
    for count, batch in ((6, 3), (5, 8)):
        plans = [draw_plan(5, count, batch, "flip", SHAPE, rng(0, "plan"), released=each) for each in (True, False)]
        assert torch.equal(*(torch.stack(list(plan.indices)) for plan in plans))


def test_equal_generators_give_equal_plans() -> None:
    first, second, other = (draw_plan(4, 9, 4, STRATEGY, SHAPE, rng(seed, "plan")) for seed in (1, 1, 2))
    assert torch.equal(first.rows(range(first.steps)), second.rows(range(second.steps)))
    assert [draw.op for draw in first.augmentation] == [draw.op for draw in second.augmentation]
    assert not torch.equal(first.rows(range(first.steps)), other.rows(range(other.steps)))


def test_every_look_at_a_canvas_has_its_own_crop() -> None:
    texture = TextureSpec(canvas=2, samples=3)
    plan = draw_plan(5, 9, 4, STRATEGY, SHAPE, rng(0, "plan"), texture=texture)
    ordinary = draw_plan(5, 9, 4, STRATEGY, SHAPE, rng(0, "plan"))
    assert torch.equal(plan.rows(range(plan.steps)), ordinary.rows(range(ordinary.steps)).repeat(1, 3))
    canvases = torch.randn(9, 3, 16, 16, generator=rng(0, "canvases"))
    for step in range(5):
        drawn = plan.crops[step](canvases[plan.indices[step]])
        assert drawn.shape == plan.augment(step, canvases[plan.indices[step]]).shape == (12, 3, 8, 8)
        assert len({tuple(image.flatten().tolist()) for image in drawn}) == 12
        assert all(len(number) == 12 for number in plan.augmentation[step].numbers.values())


def test_ordinary_images_are_seen_whole_and_cost_no_draw() -> None:
    images, generator = torch.randn(4, *SHAPE), rng(0, "plan")
    before = generator.get_state()
    assert TextureSpec().draw(4, (8, 8), generator)(images) is images
    assert torch.equal(generator.get_state(), before)
    assert all(type(crops) is Crops for crops in draw_plan(2, 4, None, "", SHAPE, generator).crops)
