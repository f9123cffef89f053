"""Textures on disk: whole canvases, pixel for pixel, and a sheet that lays them side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from astdistill.data.dataset import DataConfig
from astdistill.data.preprocessing import Preprocessing
from astdistill.data.synthetic import SyntheticSet, one_hot
from astdistill.report.pictures import save_textures
from astdistill.runtime.errors import InputError


def textures(channels: int = 3, canvas: int = 2) -> tuple[SyntheticSet, np.ndarray]:
    """Two textures for each of two classes, and their pixels `[N, H, W, C]` uint8."""
    pixels = torch.randint(
        0, 256, (4, channels, 8 * canvas, 8 * canvas), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    preprocessing = Preprocessing.standard([0.4] * channels, [0.2] * channels, (channels, 8, 8))
    images, names = (pixels.float() / 255 - 0.4) / 0.2, ("apple tart", "a/b")
    targets = one_hot(torch.arange(2).repeat_interleave(2), 2)
    made = SyntheticSet(
        images, targets, torch.tensor(0.01), names, preprocessing, DataConfig(), "convnet-d3", canvas=canvas
    )
    return made, pixels.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("channels", [1, 3])
def test_every_canvas_is_a_file_of_its_own_pixels(tmp_path: Path, channels: int) -> None:
    made, pixels = textures(channels)
    written = save_textures(made, tmp_path / "textures")
    assert [path.name for path in written] == [
        "0-apple_tart-0.png",
        "0-apple_tart-1.png",
        "1-a_b-0.png",
        "1-a_b-1.png",
        "tiled.png",
    ]
    assert sorted(path.name for path in (tmp_path / "textures").iterdir()) == [path.name for path in written]
    for path, wanted in zip(written, pixels, strict=False):
        with Image.open(path) as picture:
            assert np.array_equal(np.asarray(picture.convert("RGB")), np.broadcast_to(wanted, (16, 16, 3)))


@pytest.mark.parametrize("tiles", [1, 3])
def test_the_sheet_shows_each_texture_side_by_side_with_itself(tmp_path: Path, tiles: int) -> None:
    made, pixels = textures()
    with Image.open(save_textures(made, tmp_path, tiles)[-1]) as picture:
        sheet = np.asarray(picture.convert("RGB"))
    for texture in pixels:
        factor = max(1, round(128 / (16 * tiles)))
        large = np.tile(texture, (tiles, tiles, 1)).repeat(factor, axis=0).repeat(factor, axis=1)
        corners = np.argwhere((sheet == large[0, 0]).all(axis=2))
        places = [(y, x) for y, x in corners if np.array_equal(sheet[y : y + len(large), x : x + len(large)], large)]
        assert len(places) == 1


@pytest.mark.parametrize(
    ("canvas", "tiles", "sentence"),
    [(1, 3, "The set holds ordinary images.*--distill.canvas 2"), (2, 0, "--tile 0 was given")],
)
def test_what_cannot_be_tiled_is_refused_and_nothing_written(
    tmp_path: Path, canvas: int, tiles: int, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        save_textures(textures(canvas=canvas)[0], tmp_path / "textures", tiles)
    assert not (tmp_path / "textures").exists()
