from __future__ import annotations

import math

import pytest
import reference_augment
import torch
from torch.autograd import gradcheck

from astdistill.data import augmentation as augment
from astdistill.runtime import seeds
from astdistill.runtime.errors import InputError

OPS = augment.STRATEGY.split("_")
SHAPES = [(3, 8, 8), (1, 7, 10), (2, 9, 5)]


def _images(batch: int, shape: tuple[int, int, int]) -> torch.Tensor:
    return torch.randn(batch, *shape, generator=seeds.rng(0, "images"), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("op", OPS)
def test_apply_is_the_slow_per_pixel_version(op: str, shape: tuple[int, int, int]) -> None:
    images = _images(6, shape)
    drawn = augment.draw(op, 6, shape, seeds.rng(1, op))
    exact = augment.Draw(op, {name: n.double() if n.is_floating_point() else n for name, n in drawn.numbers.items()})
    result = augment.apply(images, exact)
    torch.testing.assert_close(result, reference_augment.apply(images, exact), rtol=0, atol=1e-10)
    assert result.dtype == torch.float64
    assert not torch.equal(result, images)


@pytest.mark.parametrize("op", OPS)
def test_drawn_numbers_work_at_both_precisions(op: str) -> None:
    images = _images(5, (3, 8, 6))
    drawn = augment.draw(op, 5, (3, 8, 6), seeds.rng(2))
    single = augment.apply(images.float(), drawn)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), augment.apply(images, drawn), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", OPS)
def test_apply_is_differentiable_in_the_images(op: str) -> None:
    images = _images(3, (2, 4, 5)).requires_grad_()
    drawn = augment.draw(op, 3, (2, 4, 5), seeds.rng(3))
    assert gradcheck(lambda x: augment.apply(x, drawn), (images,))


@pytest.mark.parametrize("op", OPS)
def test_apply_leaves_its_input_alone_and_repeats_itself(op: str) -> None:
    images = _images(4, (3, 8, 8))
    before = images.clone()
    first, second = (augment.apply(images, augment.draw(op, 4, (3, 8, 8), seeds.rng(4, op))) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(images, before)


def test_draw_depends_on_the_generator_only() -> None:
    first, second, other = (
        augment.draw(augment.STRATEGY, 64, (3, 8, 8), seeds.rng(seed, "plan")) for seed in (5, 5, 6)
    )
    assert first.op == second.op
    assert all(torch.equal(first.numbers[name], second.numbers[name]) for name in first.numbers)
    same_op = [augment.draw("scale", 64, (3, 8, 8), seeds.rng(seed)).numbers["x"] for seed in (5, 6)]
    assert not torch.equal(*same_op)
    assert other.op in OPS
    state = torch.get_rng_state()
    augment.draw(augment.STRATEGY, 64, (3, 8, 8), seeds.rng(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_every_op_appears_equally_often_and_once_per_batch() -> None:
    generator = seeds.rng(7)
    ops = [augment.draw(augment.STRATEGY, 2, (3, 8, 8), generator).op for _ in range(1200)]
    assert set(ops) == set(OPS)
    assert all(abs(ops.count(op) - 200) < 60 for op in OPS)  # 4.6 standard deviations
    some = {augment.draw("flip_crop", 2, (3, 8, 8), generator).op for _ in range(50)}
    assert some == {"flip", "crop"}


@pytest.mark.parametrize(
    ("op", "name", "values"),
    [
        ("crop", "rows", range(-4, 5)),
        ("crop", "columns", range(-2, 3)),
        ("cutout", "row", range(33)),  # a side of 16 is even: 0 and 32 both included
        ("cutout", "column", range(18)),  # a side of 9 is odd
        ("flip", "flip", range(2)),
    ],
)
def test_whole_numbers_are_uniform_over_all_allowed(op: str, name: str, values: range) -> None:
    count = 20000
    drawn = augment.draw(op, count, (3, 32, 18), seeds.rng(8)).numbers[name].tolist()
    assert set(drawn) == set(values)
    expected = count / len(values)
    assert all(abs(drawn.count(value) - expected) < 6 * math.sqrt(expected) for value in values)


@pytest.mark.parametrize(
    ("op", "names", "low", "high"),
    [
        ("color", ("brightness", "saturation", "contrast"), 0.0, 1.0),
        ("scale", ("x", "y"), 1 / 1.2, 1.2),
        ("rotate", ("radians",), -math.pi / 12, math.pi / 12),
    ],
)
def test_real_numbers_are_uniform_and_drawn_per_image(op: str, names: tuple[str, ...], low: float, high: float) -> None:
    count = 20000
    numbers = augment.draw(op, count, (3, 8, 8), seeds.rng(9)).numbers
    assert set(numbers) == set(names)
    for number in numbers.values():
        assert number.shape == (count,)
        assert low <= number.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < number.max() <= high + 1e-6
        quarters = torch.histc(number, bins=4, min=low, max=high) / count
        torch.testing.assert_close(quarters, torch.full((4,), 0.25), rtol=0, atol=0.02)
    if len(names) > 1:
        assert abs(float(torch.corrcoef(torch.stack(list(numbers.values())))[0, 1])) < 0.05


def test_cutout_of_an_even_side_clips_both_borders_alike() -> None:
    kept = [
        augment.apply(
            torch.ones(1, 1, 8, 8), augment.Draw("cutout", {"row": torch.tensor([r]), "column": torch.tensor([4])})
        )
        for r in (0, 8)
    ]
    assert [int((image == 0).sum()) for image in kept] == [2 * 4, 2 * 4]
    assert torch.equal(kept[0].flip(2), kept[1])


@pytest.mark.parametrize("strategy", ["", "none"])
def test_none_changes_nothing(strategy: str) -> None:
    images = _images(2, (3, 8, 8))
    generator = seeds.rng(10)
    state = generator.get_state()
    assert augment.apply(images, augment.draw(strategy, 2, (3, 8, 8), generator)) is images
    assert torch.equal(generator.get_state(), state)


def test_unknown_op_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no augmentation 'cut'.*'cutout'"):
        augment.draw("color_cut", 2, (3, 8, 8), seeds.rng(0))


def test_to_moves_every_number() -> None:
    moved = augment.draw("scale", 4, (3, 8, 8), seeds.rng(0)).to("meta")
    assert moved.op == "scale"
    assert all(number.device.type == "meta" for number in moved.numbers.values())
