"""Canvases on a torus: crops against rolled images, cells against slices, and whitening undone without a seam."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from astdistill.data.preprocessing import Preprocessing, fit_zca
from astdistill.data.textures import ORDINARY, CircularCrops, Crops, TextureSpec
from astdistill.runtime.seeds import rng

SIZES = [(8, 8), (5, 7)]


def canvases(count: int, canvas: int, size: tuple[int, int], channels: int = 3) -> Tensor:
    return torch.randn(
        count, channels, canvas * size[0], canvas * size[1], generator=rng(0, "canvases"), dtype=torch.float64
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("canvas", [2, 3])
def test_a_crop_is_a_roll_and_a_slice(canvas: int, size: tuple[int, int]) -> None:
    images = canvases(40, canvas, size)
    drawn = TextureSpec(canvas=canvas).draw(40, size, rng(0, "crops"))
    assert isinstance(drawn, CircularCrops)
    found = drawn(images)
    assert found.dtype == torch.float64
    corners = zip(images, drawn.rows.tolist(), drawn.columns.tolist(), strict=True)
    wanted = [image.roll((-row, -column), (1, 2))[:, : size[0], : size[1]] for image, row, column in corners]
    assert torch.equal(found, torch.stack(wanted))


def test_crops_are_differentiable() -> None:
    images = canvases(3, 2, (3, 4), channels=2).requires_grad_()
    drawn = TextureSpec(canvas=2).draw(3, (3, 4), rng(1, "crops"))
    assert gradcheck(drawn, (images,))


def test_every_corner_of_the_torus_is_as_likely() -> None:
    count, size, canvas = 12000, (3, 4), 2
    drawn = TextureSpec(canvas=canvas).draw(count, size, rng(2, "crops"))
    assert isinstance(drawn, CircularCrops)
    corners = [(row, column) for row, column in zip(drawn.rows.tolist(), drawn.columns.tolist(), strict=True)]
    expected = count / (canvas**2 * size[0] * size[1])
    assert set(corners) == {(row, column) for row in range(6) for column in range(8)}
    assert all(abs(corners.count(corner) - expected) < 6 * math.sqrt(expected) for corner in set(corners))


def test_crops_move_to_another_device() -> None:
    moved = CircularCrops((8, 8), torch.zeros(4), torch.zeros(4)).to("meta")
    assert moved.rows.device.type == moved.columns.device.type == "meta"
    assert Crops().to("meta")(torch.zeros(1, 1, 2, 2)).device.type == "cpu"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("canvas", [1, 2, 3])
def test_cells_lie_in_reading_order(canvas: int, size: tuple[int, int]) -> None:
    texture, (height, width) = TextureSpec(canvas=canvas), size
    images = torch.randn(2 * canvas**2, 3, height, width, generator=rng(0, "cells"))
    tiled = texture.tiled(images)
    assert tiled.shape == (2, *texture.extent((3, height, width)))
    for place, image in enumerate(images):
        number, cell = divmod(place, canvas**2)
        row, column = divmod(cell, canvas)
        assert torch.equal(
            tiled[number, :, row * height : (row + 1) * height, column * width : (column + 1) * width], image
        )
    assert torch.equal(texture.cut(tiled), images)


def test_the_logits_of_a_canvas_are_the_mean_of_its_cells() -> None:
    theta, images = torch.randn(3 * 5 * 7, 4, dtype=torch.float64, generator=rng(0, "theta")), canvases(6, 2, (5, 7))

    def network(theta: Tensor, seen: Tensor) -> Tensor:
        return seen.flatten(1) @ theta

    parts = [network(theta, images[:, :, top : top + 5, left : left + 7]) for top in (0, 5) for left in (0, 7)]
    torch.testing.assert_close(TextureSpec(canvas=2).averaged(network)(theta, images), sum(parts) / 4)
    whole = canvases(6, 1, (5, 7))
    assert torch.equal(ORDINARY.averaged(network)(theta, whole), network(theta, whole))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("canvas", [1, 2, 3])
def test_a_preprocessing_of_single_pixels_is_undone_exactly(canvas: int, size: tuple[int, int]) -> None:
    standard = Preprocessing.standard([0.4, 0.5, 0.6], [0.2, 0.3, 0.1], (3, *size))
    pixels = canvases(3, canvas, size)
    everywhere = Preprocessing.standard([0.4, 0.5, 0.6], [0.2, 0.3, 0.1])
    torch.testing.assert_close(
        TextureSpec(canvas=canvas).undone(everywhere.map_batch(pixels), standard.invert), pixels, rtol=0, atol=1e-6
    )


def smooth(count: int, side: int, seed: int) -> Tensor:
    """Random pictures without a border: a few low waves on a torus of `side` pixels."""
    noise = torch.randn(count, 3, side, side, generator=rng(seed, "waves"), dtype=torch.float64)
    waves = torch.fft.fftfreq(side)
    low = (waves[:, None].square() + waves.square()) < 0.15**2
    found = torch.fft.ifft2(torch.fft.fft2(noise) * low).real
    return 0.5 + 0.15 * found / found.std()


def test_whitening_is_undone_without_a_seam() -> None:
    """ZCA ties a pixel to its whole window; undone cell by cell, neighbouring cells do not meet."""
    zca = fit_zca(smooth(400, 16, seed=1)[:, :, :8, :8].clamp(0, 1).float())
    texture, learned = TextureSpec(canvas=2), 8 * (smooth(20, 16, seed=5) - 0.5)
    found, by_cell = texture.undone(learned, zca.invert), texture.tiled(zca.invert(texture.cut(learned)))

    def step(images: Tensor, column: int) -> float:
        """Mean jump between a column of pixels and the one before it, on the torus."""
        return float((images[..., column] - images[..., column - 1]).abs().mean())

    def seam(images: Tensor) -> float:
        """The jump at the borders of cells, beside that elsewhere."""
        inside = [step(images, column) for column in range(16) if column % 8]
        return (step(images, 0) + step(images, 8)) / 2 / (sum(inside) / len(inside))

    assert min(seam(by_cell), seam(by_cell.transpose(2, 3))) > 1.3
    assert max(seam(found), seam(found.transpose(2, 3))) < 1.05


def test_a_shifted_canvas_is_the_shifted_picture() -> None:
    zca = fit_zca(smooth(400, 16, seed=1)[:, :, :8, :8].clamp(0, 1).float())
    texture, learned = TextureSpec(canvas=3), 8 * (smooth(4, 24, seed=5) - 0.5)
    found = texture.undone(learned, zca.invert)

    def off(shift: tuple[int, int]) -> float:
        moved = texture.undone(learned.roll(shift, (2, 3)), zca.invert).roll((-shift[0], -shift[1]), (2, 3))
        return float((moved - found).norm() / (found - found.mean()).norm())

    assert off((4, -8)) < 1e-12
    assert off((3, -5)) < 0.02
