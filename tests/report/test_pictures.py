from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from astdistill.data.dataset import DataConfig
from astdistill.data.preprocessing import Preprocessing
from astdistill.data.synthetic import SyntheticSet, one_hot
from astdistill.report.pictures import MARGIN, arrange, faint, save_grid
from astdistill.runtime.errors import InputError


def whitened(classes: int, ipc: int, channels: int = 3, size: int = 8) -> tuple[SyntheticSet, torch.Tensor]:
    """A set of random 8-bit images in a standardised space, and those images as `[N, C, H, W]` uint8."""
    pixels = torch.randint(
        0, 256, (classes * ipc, channels, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    preprocessing = Preprocessing.standard(
        torch.full((channels,), 0.4), torch.full((channels,), 0.2), (channels, size, size)
    )
    names = tuple(f"class_{label}" for label in range(classes))
    targets = one_hot(torch.arange(classes).repeat_interleave(ipc), classes)
    images = preprocessing.apply(pixels.float() / 255)
    return SyntheticSet(images, targets, torch.tensor(0.01), names, preprocessing, DataConfig(), "convnet-d3"), pixels


def shown(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def cells(sheet: np.ndarray, pixels: torch.Tensor, cell: int) -> list[tuple[int, int]]:
    """Left and top of every image of `pixels`, found by its exact enlarged copy in the sheet."""
    found = []
    for image in pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy():
        factor = cell // image.shape[0]
        large = image.repeat(factor, axis=0).repeat(factor, axis=1)
        corners = np.argwhere((sheet == large[0, 0]).all(axis=2))
        places = [(x, y) for y, x in corners if np.array_equal(sheet[y : y + cell, x : x + cell], large)]
        assert len(places) == 1
        found.append(places[0])
    return found


@pytest.mark.parametrize(("classes", "ipc", "channels"), [(10, 1, 3), (10, 1, 1), (4, 3, 3), (2, 12, 3)])
def test_every_image_is_shown_once_crisp_and_with_its_whitening_undone(
    tmp_path: Path, classes: int, ipc: int, channels: int
) -> None:
    synthetic, pixels = whitened(classes, ipc, channels)
    save_grid(synthetic, tmp_path / "images.png")
    sheet = shown(tmp_path / "images.png")
    layout = arrange(classes, ipc, 8, 0.0)
    places = cells(sheet, pixels, layout.cell)
    assert len(set(places)) == classes * ipc
    if channels == 1:
        assert (sheet == sheet[:, :, :1]).all()


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_other_channels_than_one_and_three_are_shown_as_their_grey_mean(tmp_path: Path, channels: int) -> None:
    synthetic, pixels = whitened(4, 1, channels)
    save_grid(synthetic, tmp_path / "images.png")
    sheet = shown(tmp_path / "images.png")
    assert (sheet == sheet[:, :, :1]).all()
    layout = arrange(4, 1, 8, 0.0)
    factor = layout.cell // 8
    for label, image in enumerate(pixels.double().mean(dim=1).numpy()):
        left, top = layout.image(label, 0)
        cell = sheet[top : top + layout.cell : factor, left : left + layout.cell : factor, 0]
        np.testing.assert_allclose(cell, image, atol=0.51)


def test_images_with_hardly_any_contrast_are_stretched_and_the_picture_says_so(tmp_path: Path) -> None:
    synthetic, pixels = whitened(10, 1)
    flat = replace(synthetic, images=0.05 * synthetic.images)
    assert faint(flat.pixels())
    assert not faint(synthetic.pixels())
    assert not faint(torch.full((2, 3, 4, 4), 0.5)), "there is nothing to be seen in a single grey"
    save_grid(flat, tmp_path / "images.png")
    sheet = shown(tmp_path / "images.png")
    lowest = pixels.amin(dim=(1, 2, 3), keepdim=True)
    contrast = pixels.amax(dim=(1, 2, 3), keepdim=True) - lowest
    left, top = arrange(10, 1, 8, 0.0).image(3, 0)
    cell = arrange(10, 1, 8, 0.0).cell
    found = sheet[top : top + cell : cell // 8, left : left + cell : cell // 8].transpose(2, 0, 1)
    wanted = ((pixels - lowest) / contrast * 255)[3].round().numpy()
    assert np.abs(found.astype(float) - wanted).max() <= 1
    below = sheet[-MARGIN:]
    assert below.min() < 128  # the line that says so
    save_grid(synthetic, tmp_path / "images.png")
    assert shown(tmp_path / "images.png")[-MARGIN:].min() == 255


def test_images_of_one_class_stand_side_by_side_and_classes_below_each_other(tmp_path: Path) -> None:
    synthetic, pixels = whitened(4, 3)
    save_grid(synthetic, tmp_path / "images.png", columns=1)
    sheet = shown(tmp_path / "images.png")
    places = cells(sheet, pixels, arrange(4, 3, 8, 0.0, 1).cell)
    rows = [places[3 * label : 3 * label + 3] for label in range(4)]
    assert all(len({y for _, y in row}) == 1 and [x for x, _ in row] == sorted(x for x, _ in row) for row in rows)
    assert [row[0][1] for row in rows] == sorted({y for _, y in places})


def test_soft_labels_that_moved_do_not_move_an_image(tmp_path: Path) -> None:
    synthetic, _ = whitened(4, 1)
    save_grid(synthetic, tmp_path / "before.png")
    synthetic.targets.copy_(synthetic.targets.roll(1, 0))
    save_grid(synthetic, tmp_path / "after.png")
    assert (tmp_path / "before.png").read_bytes() == (tmp_path / "after.png").read_bytes()


@pytest.mark.parametrize(
    ("classes", "ipc", "columns", "rows"),
    [(10, 1, 5, 2), (100, 1, 10, 10), (200, 1, 20, 10), (10, 10, 1, 10), (100, 10, 4, 25)],
)
def test_usual_sets_get_a_full_rectangle(classes: int, ipc: int, columns: int, rows: int) -> None:
    layout = arrange(classes, ipc, 32, 80.0)
    assert (layout.columns, layout.rows) == (columns, rows)


@pytest.mark.parametrize(("classes", "ipc", "size"), [(7, 1, 28), (3, 50, 128), (100, 50, 32), (1, 1, 8)])
def test_no_two_images_overlap_and_all_lie_inside(classes: int, ipc: int, size: int) -> None:
    layout = arrange(classes, ipc, size, 80.0)
    assert layout.cell % size == 0
    corners = sorted(layout.image(label, index) for label in range(classes) for index in range(ipc))
    assert len(set(corners)) == classes * ipc
    assert all(0 <= x <= layout.width - layout.cell and 0 <= y <= layout.height - layout.cell for x, y in corners)
    columns, lines = sorted({x for x, _ in corners}), sorted({y for _, y in corners})
    assert all(b - a > layout.cell for axis in (columns, lines) for a, b in itertools.pairwise(axis))


def test_odd_names_and_few_columns_are_drawn_and_no_columns_refused(tmp_path: Path) -> None:
    synthetic, _ = whitened(3, 1)
    object.__setattr__(synthetic, "classes", ("a $ sign", "", "a_very_long_name_that_fits_under_no_image_at_all"))
    save_grid(synthetic, tmp_path / "images.png", columns=2)
    assert (tmp_path / "images.png").stat().st_size > 0
    with pytest.raises(InputError, match="0 columns"):
        save_grid(synthetic, tmp_path / "none.png", columns=0)
    assert not (tmp_path / "none.png").exists()
