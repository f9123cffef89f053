"""DSA, slowly and obviously: one image, one pixel at a time. Compared with `astdistill.data.augmentation`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from astdistill.data.augmentation import Draw


def apply(images: Tensor, draw: Draw) -> Tensor:
    """What `augment.apply` should give."""
    effect = {"color": color, "crop": crop, "cutout": cutout, "flip": flip, "scale": scale, "rotate": rotate}[draw.op]
    return torch.stack(
        [effect(image, *(float(number[i]) for number in draw.numbers.values())) for i, image in enumerate(images)]
    )


def color(image: Tensor, brightness: float, saturation: float, contrast: float) -> Tensor:
    channels, height, width = image.shape
    out = image.clone()
    for y in range(height):
        for x in range(width):
            pixel = [float(image[c, y, x]) + brightness - 0.5 for c in range(channels)]
            grey = sum(pixel) / channels
            for c in range(channels):
                out[c, y, x] = (pixel[c] - grey) * 2 * saturation + grey
    level = sum(out.flatten().tolist()) / out.numel()
    return torch.tensor(
        [(value - level) * (contrast + 0.5) + level for value in out.flatten().tolist()], dtype=image.dtype
    ).view(image.shape)


def crop(image: Tensor, rows: float, columns: float) -> Tensor:
    _, height, width = image.shape
    out = torch.zeros_like(image)
    for y in range(height):
        for x in range(width):
            if 0 <= y + rows < height and 0 <= x + columns < width:
                out[:, y, x] = image[:, y + int(rows), x + int(columns)]
    return out


def cutout(image: Tensor, row: float, column: float) -> Tensor:
    _, height, width = image.shape
    tall, wide = int(0.5 * height + 0.5), int(0.5 * width + 0.5)
    out = image.clone()
    for i in range(tall):
        for j in range(wide):
            y, x = int(row) - tall // 2 + i, int(column) - wide // 2 + j
            if 0 <= y < height and 0 <= x < width:
                out[:, y, x] = 0.0
    return out


def flip(image: Tensor, flipped: float) -> Tensor:
    _, height, width = image.shape
    out = image.clone()
    for y in range(height):
        for x in range(width):
            out[:, y, x] = image[:, y, width - 1 - x] if flipped else image[:, y, x]
    return out


def scale(image: Tensor, x_factor: float, y_factor: float) -> Tensor:
    return affine(image, [[x_factor, 0.0], [0.0, y_factor]])


def rotate(image: Tensor, radians: float) -> Tensor:
    return affine(image, [[math.cos(radians), math.sin(-radians)], [math.sin(radians), math.cos(radians)]])


def affine(image: Tensor, matrix: list[list[float]]) -> Tensor:
    """Each pixel reads the image at matrix · its position, where −1 and 1 are the centres of the corner pixels."""
    _, height, width = image.shape
    out = torch.zeros_like(image)
    for y in range(height):
        for x in range(width):
            across, down = 2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1
            source_x = (matrix[0][0] * across + matrix[0][1] * down + 1) / 2 * (width - 1)
            source_y = (matrix[1][0] * across + matrix[1][1] * down + 1) / 2 * (height - 1)
            out[:, y, x] = bilinear(image, source_y, source_x)
    return out


def bilinear(image: Tensor, y: float, x: float) -> Tensor:
    """The weighted mean of the four pixels around (y, x); those outside the image are zero."""
    _, height, width = image.shape
    value = torch.zeros_like(image[:, 0, 0])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= column < width:
                value = value + image[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return value
