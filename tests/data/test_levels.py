"""Pictures of every mode and depth in 256 levels, and what is said of them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

from astdistill.data.dataset import DataConfig, Dataset
from astdistill.data.levels import ORIENTATION, Levels, Opening, Values, header_shape, picture_values
from astdistill.data.loading import load_dataset
from astdistill.runtime.errors import InputError

RAMP = np.arange(256).reshape(16, 16)


def folder(place: Path, *pictures: Image.Image | bytes, ending: str = "png") -> Path:
    """Two classes, 'a' of the first picture and 'b' of the last, four times each."""
    for name, picture in zip("ab", (pictures[0], pictures[-1]), strict=True):
        (place / name).mkdir(parents=True)
        for number in range(4):
            path = place / name / f"{number}.{ending}"
            if isinstance(picture, bytes):
                path.write_bytes(picture)
            else:
                picture.save(path)
    return place


def read(place: Path, **fields: Any) -> Dataset:
    return load_dataset(str(place), whiten="none", **fields)


def both(found: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """A picture of either class, `[C, H, W]`, 0..255."""
    pixels = (found.train.whole() * 255).round().to(torch.uint8).numpy()
    labels = found.train.labels.tolist()
    return pixels[labels.index(0)], pixels[labels.index(1)]


def png16(samples: np.ndarray, colour_type: int) -> bytes:
    """A PNG file of 16-bit samples `[H, W·C]`."""
    channels = {0: 1, 2: 3, 4: 2}[colour_type]
    head = struct.pack(">IIBBBBB", samples.shape[1] // channels, len(samples), 16, colour_type, 0, 0, 0)
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("dtype", "mode", "factor", "white", "ending"),
    [
        (np.uint16, None, 16, 4095, "png"),  # 12 bits in 16
        (np.uint16, None, 16, 4095, "tif"),
        (np.uint16, None, 4, 1023, "png"),  # 10 bits
        (np.uint16, None, 64, 16383, "png"),  # 14 bits
        (np.uint16, None, 1, 255, "png"),  # 8 bits
        (np.uint16, None, 257, 65535, "png"),
        (np.uint16, None, 200, 65535, "tif"),
        (np.int32, "I", 1, 255, "tif"),
        (np.int32, "I", 16, 4095, "tif"),
        (np.int32, "I", 1000, 255000, "tif"),
        (np.float32, "F", 1 / 255, 1, "tif"),
        (np.float32, "F", 1, 255, "tif"),
        (np.float32, "F", 0.9, 229.5, "tif"),
        (np.float32, "F", 0.0001, 1, "tif"),
        (np.float32, "F", 0.011, 2.805, "tif"),
        (np.float32, "F", 10.5, 2677.5, "tif"),
    ],
)
def test_deep_grey_pictures_keep_their_levels(
    tmp_path: Path, dtype: type, mode: str | None, factor: float, white: float, ending: str
) -> None:
    bright, dark = ((RAMP * factor / share).astype(dtype) for share in (1, 4))
    found = read(folder(tmp_path / "set", *(Image.fromarray(each) for each in (bright, dark)), ending=ending))
    assert Image.fromarray(bright).mode == (mode or "I;16")
    scale = 255 if white == 229.5 else white  # fractions near 255 are taken for 0..255
    for seen, given in zip(both(found), (bright, dark), strict=True):
        assert seen.shape == (1, 16, 16)
        np.testing.assert_allclose(seen[0], given.astype(np.float64) * 255 / scale, atol=0.5 + 1e-3)
    said = (*found.summary.read, *found.summary.guessed)
    assert any(f"{scale:g} is white" in line for line in said)


def test_a_dark_set_of_16_bits_stays_dark_where_its_values_are_spread(tmp_path: Path) -> None:
    dark = ((RAMP // 8) * 257).astype(np.uint16)
    found = read(folder(tmp_path / "set", Image.fromarray(dark), Image.fromarray(dark)))
    assert both(found)[0].max() == 31


def test_the_white_level_can_be_named(tmp_path: Path) -> None:
    place = folder(tmp_path / "set", Image.fromarray((RAMP * 16).astype(np.uint16)), Image.fromarray(RAMP.astype("u2")))
    assert both(read(place))[0].max() == round(4080 / 4095 * 255)
    found = read(place, white_level=65535)
    assert both(found)[0].max() == 16
    assert "16-bit grey pictures: 65535 is white" in found.summary.read
    assert both(read(place, white_level=2040))[0].max() == 255


def test_files_that_tell_their_depth(tmp_path: Path) -> None:
    pgm = b"P5 16 16 1000\n" + (RAMP * 2).astype(">u2").tobytes()
    found = read(folder(tmp_path / "pgm", pgm, pgm, ending="pgm"))
    np.testing.assert_allclose(both(found)[0][0], RAMP * 2 / 1000 * 255, atol=0.51)
    zero = TiffImagePlugin.ImageFileDirectory_v2()
    zero[262] = 0
    buffer = io.BytesIO()
    Image.fromarray((RAMP * 257).astype(np.uint16)).save(buffer, "TIFF", tiffinfo=zero)
    found = read(folder(tmp_path / "white_is_zero", buffer.getvalue(), buffer.getvalue(), ending="tif"))
    assert np.array_equal(both(found)[0][0], 255 - RAMP)
    buffer = io.BytesIO()
    Image.fromarray((RAMP * 16).astype(np.uint16)).save(buffer, "TIFF", tiffinfo=zero)
    found = read(folder(tmp_path / "twelve_bits", buffer.getvalue(), buffer.getvalue(), ending="tif"))
    np.testing.assert_allclose(both(found)[0][0], 255 - RAMP * 16 / 4095 * 255, atol=0.51)
    buffer = io.BytesIO()
    Image.fromarray((RAMP / 255).astype(np.float32)).save(buffer, "PPM")
    found = read(folder(tmp_path / "pfm", buffer.getvalue(), buffer.getvalue(), ending="ppm"))
    assert np.array_equal(both(found)[0][0], RAMP)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.full((8, 8), np.nan, np.float32), r"0\.tif cannot be read as an image \(it holds values that are no num"),
        (np.full((8, 8), -1024, np.int32), r"0\.tif cannot be read .*go down to -1024, and pixels are 0 or more"),
        (np.full((8, 8), -0.5, np.float32), r"go down to -0\.5"),
    ],
)
def test_values_that_are_no_levels_are_refused(tmp_path: Path, array: np.ndarray, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read(folder(tmp_path / "set", Image.fromarray(array), Image.fromarray(array), ending="tif"))


def test_sixteen_bit_colour_of_fewer_bits_is_refused(tmp_path: Path) -> None:
    samples = np.arange(8 * 24).reshape(8, 24)
    full = read(folder(tmp_path / "full", png16(samples * 340, 2), png16(samples * 340, 2)))
    assert np.array_equal(both(full)[0].transpose(1, 2, 0).reshape(8, 24), samples * 340 // 256)
    low = folder(tmp_path / "low", png16(samples * 20, 2), png16(samples * 20, 2))
    with pytest.raises(InputError, match="16-bit colour pictures of this set reach only about 3584 of 65535"):
        read(low)
    assert both(read(low, white_level=65535))[0].max() == 14


INK = np.zeros((16, 16, 4), np.uint8)
INK[4:8, 2:14, 3] = 255
HALF = np.full((16, 16, 4), (200, 100, 0, 51), np.uint8)


@pytest.mark.parametrize(
    ("mode", "background", "expected"),
    [
        ("RGBA", "white", (0, 255)),
        ("RGBA", "black", (0, 0)),
        ("RGBA", "drop", (0, 0)),
        ("RGBA", "#ffFFff", (0, 255)),
        ("LA", "white", (0, 255)),
        ("LA", "#808080", (0, 128)),
    ],
)
def test_ink_in_transparency_is_laid_on_the_background(
    tmp_path: Path, mode: str, background: str, expected: tuple[int, int]
) -> None:
    ink = Image.fromarray(INK)
    found = read(folder(tmp_path / "set", ink.convert(mode), ink.convert(mode)), background=background)
    seen = both(found)[0]
    assert len(seen) == (1 if mode == "LA" else 3)
    assert (set(seen[:, 4:8, 2:14].flat), seen[:, 0, 0].max()) == ({expected[0]}, expected[1])
    assert sum("transparent pixels" in line for line in found.summary.guessed) == 1


@pytest.mark.parametrize("mode", ["PA", "La", "RGBa"])
def test_pictures_in_memory_of_rare_modes_are_laid_on_white(mode: str) -> None:
    ink = Image.fromarray(INK)
    picture = ink.convert({"PA": "PA", "La": "LA"}.get(mode, "RGBA"))
    shown = picture if mode == "PA" else picture.convert(mode)
    seen = Levels(Opening(), list).pixels(picture_values(shown, Opening()))
    assert (set(seen[:, 4:8, 2:14].flatten().tolist()), int(seen[0, 0, 0])) == ({0}, 255)


def test_a_grey_picture_on_a_colour_is_in_colour(tmp_path: Path) -> None:
    picture = Image.fromarray(INK).convert("LA")
    found = read(folder(tmp_path / "set", picture, picture), background="#ff8000")
    assert both(found)[0][:, 0, 0].tolist() == [255, 128, 0]
    assert found.summary.guessed == (
        "8 pictures with transparent pixels, shown on #ff8000 (otherwise: --data.background)",
    )


def test_half_transparent_pixels_are_mixed(tmp_path: Path) -> None:
    found = read(folder(tmp_path / "set", Image.fromarray(HALF), Image.fromarray(HALF)))
    assert both(found)[0][:, 3, 3].tolist() == [244, 224, 204]  # a fifth of the colour, four fifths of white


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P"])
def test_a_transparent_colour_or_entry_of_a_palette(tmp_path: Path, mode: str) -> None:
    array = np.where(INK[..., 3:] > 0, 255, 0).astype(np.uint8).repeat(3, 2)
    picture = Image.fromarray(255 - array).convert(mode)
    clear = {"RGB": (255, 255, 255), "P": picture.getpixel((0, 0)), "1": 1}.get(mode, 255)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=clear)
    place = folder(tmp_path / "set", buffer.getvalue(), buffer.getvalue())
    assert both(read(place, background="black"))[0].max() == 0  # the ground is gone, and the ink is black
    seen = both(read(place))[0]
    assert (seen[0, 0, 0], seen[0, 5, 5]) == (255, 0)


def test_opaque_pictures_with_an_alpha_channel_keep_their_bits(tmp_path: Path) -> None:
    array = np.dstack([RAMP, RAMP[::-1], RAMP.T, np.full_like(RAMP, 255)]).astype(np.uint8)
    place = folder(tmp_path / "set", Image.fromarray(array), Image.fromarray(array))
    found = read(place)
    assert np.array_equal(both(found)[0], array[..., :3].transpose(2, 0, 1))
    assert found.fingerprint == read(place, background="black").fingerprint
    assert not found.summary.guessed


def test_a_background_that_is_no_colour_is_refused() -> None:
    for name in ("green", "#12345", "#1234567", ""):
        with pytest.raises(InputError, match=f"The background '{name}' is no colour; choose --data.background"):
            load_dataset("digits", background=name)


def test_the_default_is_not_written() -> None:
    assert not {"background", "white_level"} & set(DataConfig().model_dump())
    assert DataConfig(background="drop", white_level=1).model_dump()["background"] == "drop"


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "1", "P", "L", "I;16"])
def test_pictures_of_other_modes_are_read_as_what_they_show(tmp_path: Path, mode: str) -> None:
    plain = Image.fromarray(np.dstack([RAMP] * 3).astype(np.uint8))
    picture = Image.new("LAB", (16, 16), (255, 128, 128)) if mode == "LAB" else plain.convert("L").convert(mode)
    if mode == "CMYK":
        picture = plain.convert("CMYK")
    seen = both(read(folder(tmp_path / "set", picture, picture, ending="tif")))[0]
    dithered = np.array(plain.convert("1").convert("L"))
    grey = {"LAB": np.full((16, 16), 255), "1": dithered}.get(mode, RAMP)
    np.testing.assert_allclose(seen, np.broadcast_to(grey, seen.shape), atol=2)


def test_turned_pictures_and_first_frames_are_said(tmp_path: Path, write_pictures: Callable[..., None]) -> None:
    ramp = Image.fromarray(RAMP.astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned to the left
    turned, frames, pages = io.BytesIO(), io.BytesIO(), io.BytesIO()
    ramp.save(turned, "PNG", exif=exif)
    ramp.save(frames, "GIF", save_all=True, append_images=[ramp.rotate(180)])
    ramp.save(pages, "TIFF", save_all=True, append_images=[ramp.rotate(180)])
    found = read(folder(tmp_path / "turned", turned.getvalue(), turned.getvalue()))
    assert np.array_equal(both(found)[0][0], np.rot90(RAMP, -1))
    assert "8 pictures turned upright as the EXIF orientation says" in found.summary.read
    for name, data in (("gif", frames), ("tif", pages)):
        found = read(folder(tmp_path / name, data.getvalue(), data.getvalue(), ending=name))
        assert np.array_equal(both(found)[0][0], RAMP)
        assert "8 pictures with several frames or pages, of which the first was read" in found.summary.read


def test_dark_fractions_are_said() -> None:
    """Scaled twice by 255, fractions keep two of their levels."""
    dark = np.full((1, 8, 8), 1 / 255, np.float32)
    for values, sure in ((dark, False), (dark * 128, True)):
        given = Values(values, "floating-point lists")
        levels = Levels(Opening(), lambda given=given: [given])
        levels.pixels(given)
        assert bool(levels.notes()) == sure
        assert bool(levels.guesses()) != sure
    assert levels.notes() == ("floating-point lists: 1 is white",)


def parts(place: Path, train: np.ndarray, test: np.ndarray, ending: str) -> Path:
    for part, picture in (("train", train), ("test", test)):
        folder(place / part, Image.fromarray(picture), Image.fromarray(picture), ending=ending)
    return place


@pytest.mark.parametrize(
    ("top", "other", "kind", "ending"),
    [(255.0, 1.0, "f4", "tif"), (1.0, 255.0, "f4", "tif"), (4095, 65535, "u2", "png"), (65535, 255, "u2", "png")],
)
def test_parts_with_different_whites_are_refused(
    tmp_path: Path, top: float, other: float, kind: str, ending: str
) -> None:
    train, test = ((RAMP / 255 * each).astype(kind) for each in (top, other))
    place = parts(tmp_path / "set", train, test, ending)
    darker = "training" if top < other else "test"
    with pytest.raises(InputError, match=f"so the {darker} part would be .* times darker; store both parts with"):
        read(place)
    given = read(place, white_level=max(top, other))
    assert any(said.startswith("one white level for both parts, though the ") for said in given.summary.guessed)


def test_a_darker_part_is_said_and_read(tmp_path: Path) -> None:
    place = parts(tmp_path / "set", (RAMP * 250).astype("u2"), (RAMP * 60).astype("u2"), "png")
    (said,) = read(place).summary.guessed
    assert said.startswith("one white level for both parts, though the training part reaches 63750")
    place = parts(tmp_path / "alike", (RAMP * 250).astype("u2"), (RAMP * 150).astype("u2"), "png")
    assert not read(place).summary.guessed


def test_a_white_level_that_leaves_nothing_to_see_is_refused(tmp_path: Path) -> None:
    bright = Image.fromarray((RAMP * 100 + 30000).astype("u2"))
    place = folder(tmp_path / "set", bright, bright)
    with pytest.raises(InputError, match="reach 55500, with 100% of their values beyond the white level of 1000"):
        read(place, white_level=1000)
    with pytest.raises(
        InputError, match=r"reach 55500, far below the white level of 1e\+09, so that they would be black"
    ):
        read(place, white_level=1e9)
    found = read(place, white_level=55000)
    assert any(said.endswith("of the values lie beyond it (they reach 55500)") for said in found.summary.read)


@pytest.mark.parametrize(("orientation", "said"), [(1, False), (9, False), (0, False), (3, True)])
def test_only_orientations_that_turn_are_said(tmp_path: Path, orientation: int, said: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(RAMP.astype(np.uint8)).save(buffer, "JPEG", exif=exif)
    found = read(folder(tmp_path / "set", buffer.getvalue(), buffer.getvalue(), ending="jpg"))
    assert any("turned upright" in line for line in found.summary.read) == said


@pytest.mark.parametrize("ending", ["tif", "png", "webp", "jpg"])
def test_the_header_of_a_turned_picture_tells_its_upright_shape(ending: str) -> None:
    exif, data = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = 6
    Image.new("RGB", (24, 16)).save(data, {"tif": "TIFF", "jpg": "JPEG"}.get(ending, ending), exif=exif)
    with Image.open(data) as picture:
        assert header_shape(picture) == (3, 24, 16)
        assert picture_values(picture, Opening()).values.shape == (3, 24, 16)
