from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_data import resized_slowly, squashed_slowly

from astdistill.data import DataConfig, dataset_from_tensors, dataset_from_torch, load_dataset
from astdistill.data.decoding import CHUNK, resized
from astdistill.data.preprocessing import Preprocessing
from astdistill.runtime.errors import InputError


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (33, 57), (16, 64), (9, 10), (64, 64), (5, 80)])
@pytest.mark.parametrize("size", [8, 16, 21])
def test_resizing_equals_the_slow_one(pixels: Callable[..., torch.Tensor], shape: tuple[int, int], size: int) -> None:
    images = pixels(2, 3, *shape)
    found = resized(images, size)
    assert (found.dtype, found.shape) == (torch.uint8, (2, 3, size, size))
    slow = torch.stack([resized_slowly(image, size) for image in images])
    assert (found - slow).abs().max() < 1.001  # each of the two directions rounds once
    assert (found - slow).abs().mean() < 0.4


def test_images_that_fit_stay_as_they_are(pixels: Callable[..., torch.Tensor]) -> None:
    images = pixels(2, 3, 16, 16)
    assert resized(images, 16) is images
    assert resized(images, None) is images
    assert torch.equal(resized(pixels(2, 3, 16, 22), 16), pixels(2, 3, 16, 22)[:, :, :, 3:-3])


SHAPES = [(40, 60), (60, 40), (33, 57), (16, 64), (9, 10), (5, 80)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [8, 16, 21])
def test_squashing_equals_the_slow_one(pixels: Callable[..., torch.Tensor], shape: tuple[int, int], size: int) -> None:
    images = pixels(2, 3, *shape)
    found = resized(images, size, "squash")
    assert (found.dtype, found.shape) == (torch.uint8, (2, 3, size, size))
    slow = torch.stack([squashed_slowly(image, size) for image in images])
    assert (found - slow).abs().max() < 0.5 + 1e-4  # rounded once


def test_squashing_by_three_takes_every_third_pixel(pixels: Callable[..., torch.Tensor]) -> None:
    """Antialiasing would mix in its neighbours; a crop would leave out the sides."""
    images = pixels(2, 3, 24, 48)
    assert torch.equal(resized(images[:, :, :, :24], 8, "squash"), images[:, :, 1::3, 1:24:3])
    sides = images[:, :, 1::3].float()
    assert torch.equal(resized(images, 8, "squash"), ((sides[..., 2::6] + sides[..., 3::6]) / 2).round().byte())


def test_squashing_many_images_is_squashing_each(pixels: Callable[..., torch.Tensor]) -> None:
    images = pixels(CHUNK + 3, 1, 4, 6)
    found = resized(images, 8, "squash")
    assert torch.equal(found[-4:], torch.cat([resized(image[None], 8, "squash") for image in images[-4:]]))
    assert resized(images, None, "squash") is images
    assert resized(found, 8, "squash") is found


def test_released_code_standardises_first_and_does_not_round(pixels: Callable[..., torch.Tensor]) -> None:
    """Which comes first makes no difference, and rounding half a level of 255."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    preprocessing = Preprocessing.standard(mean, std)
    image = pixels(1, 3, 30, 50)
    ours = preprocessing.apply(resized(image, 16, "squash").float() / 255)
    released = torch.stack([squashed_slowly(one, 16) for one in preprocessing.apply(image.float() / 255)])
    assert (ours - released).abs().max() <= 0.5 / 255 / min(std) + 1e-5


def halves(count: int) -> np.ndarray:
    """Pictures 16 high and 64 wide, black with white outer quarters, which a crop does not see."""
    picture = np.zeros((16, 64, 3), np.uint8)
    picture[:, :16] = picture[:, 48:] = 255
    return np.stack([picture] * count)


def test_every_source_squashes(tmp_path: Path, write_pictures: Callable[..., None], cache: Path) -> None:
    images, labels = halves(8), np.arange(8) % 2
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    for name in "ab":
        write_pictures(tmp_path / "folder" / name, 5, size=(64, 16), seed=ord(name))
    from PIL import Image

    for path in (tmp_path / "folder").rglob("*.png"):
        Image.fromarray(images[0]).save(path)
    tensor, own = torch.from_numpy(images).permute(0, 3, 1, 2), list(zip(images, labels.tolist(), strict=True))
    for how, share in {"crop": 0.0, "squash": 0.5, "again": 0.5}.items():
        fields = {"whiten": "none", "size": 8, "resize": how.replace("again", "squash")}
        found = [
            load_dataset(str(tmp_path / "a.npz"), **fields),
            load_dataset(str(tmp_path / "folder"), **fields),
            dataset_from_tensors(tensor, torch.from_numpy(labels), tensor, torch.from_numpy(labels), **fields),
            dataset_from_torch(own, own, classes=["u", "v"], **fields),
        ]
        assert [float(data.train.whole().mean()) for data in found] == [share] * 4
    assert len(list(cache.glob("folder-*/data.json"))) == 2
    load_dataset(str(tmp_path / "folder"), resize="squash")
    load_dataset(str(tmp_path / "folder"))  # without a size they are the same pixels
    assert len(list(cache.glob("folder-*/data.json"))) == 3


def test_runs_from_before_there_was_a_choice_stay_the_same() -> None:
    crop, squash = DataConfig(size=32), DataConfig(size=32, resize="squash")
    assert "resize" not in crop.to_json() | crop.first_written()
    assert squash.to_json() == {**crop.to_json(), "resize": "squash"}
    assert [DataConfig.model_validate(config.to_json()) for config in (crop, squash)] == [crop, squash]
    assert crop.digest() != squash.digest()
    with pytest.raises(InputError, match="resize"):
        load_dataset("digits", resize="stretch")
