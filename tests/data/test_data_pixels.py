from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from reference_data import resized_slowly

from astdistill.data.decoding import resized


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
