"""Images in any common form as uint8 pixels `[N, C, H, W]`, and the two changes of size: resize with crop, and padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from ..errors import InputError
from ..shapes import Pixels


def to_uint8(values: Tensor, where: str) -> Tensor:
    """The values as uint8, same shape: whole numbers 0..255 as they are, fractions in [0, 1] times 255, rounded.

    Raises InputError for anything else; float images in 0..255 or already normalised would be read wrongly.
    """
    if values.dtype == torch.uint8:
        return values
    if values.dtype == torch.bool or values.is_complex():
        raise InputError(f"The images of {where} are {values.dtype}; give uint8 0..255, or floats in [0, 1].")
    low, high = (float(values.min()), float(values.max())) if values.numel() else (0.0, 0.0)
    top = 1.0 if values.is_floating_point() else 255.0
    if not (low >= 0.0 and high <= top):
        kind = "Float" if values.is_floating_point() else "Integer"
        raise InputError(
            f"{kind} images of {where} lie in [{low:g}, {high:g}], not in [0, {top:g}]; undo their normalisation, or give uint8."
        )
    return values.mul(255).round().to(torch.uint8) if values.is_floating_point() else values.to(torch.uint8)


def from_array(array: Any, where: str) -> Pixels:
    """Pixels of a numpy array: `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]` with C of 1, 3 or 4 (transparency is dropped)."""
    if array.dtype.kind not in "uif":
        raise InputError(f"The images of {where} are of type {array.dtype}; give uint8 0..255, or floats in [0, 1].")
    values = torch.from_numpy(
        np.ascontiguousarray(array.astype(np.int64) if array.dtype.kind in "ui" and array.dtype != np.uint8 else array)
    )
    if values.ndim == 3:
        values = values.unsqueeze(1)
    elif values.ndim == 4 and values.shape[3] in (1, 3, 4):
        values = values.permute(0, 3, 1, 2)
    if values.ndim != 4 or values.shape[1] not in (1, 3, 4):
        raise InputError(
            f"The images of {where} have shape {tuple(array.shape)}; give [N, H, W], [N, H, W, C] or [N, C, H, W] with C 1, 3 or 4."
        )
    return to_uint8(values[:, :3] if values.shape[1] == 4 else values, where).contiguous()


def from_tensor(images: Tensor, where: str) -> Pixels:
    """Pixels of a tensor `[N, C, H, W]` with any number of channels, or `[N, H, W]`."""
    values = images.detach().to("cpu")
    values = values.unsqueeze(1) if values.ndim == 3 else values
    if values.ndim != 4:
        raise InputError(f"The images of {where} have shape {tuple(images.shape)}; give [N, C, H, W], or [N, H, W] for grey images.")
    if values.shape[3] in (1, 3) and values.shape[1] not in (1, 3):
        raise InputError(f"The images of {where} have shape {tuple(images.shape)}, channels last; give images.permute(0, 3, 1, 2).")
    return to_uint8(values, where).contiguous()


def resized(pixels: UInt8[Tensor, "N C h w"], size: int | None) -> Pixels:
    """The images with their short side resized to `size` (bilinear, antialiased, aspect ratio kept) and the centre cropped to a square."""
    if size is None or pixels.shape[2:] == (size, size):
        return pixels
    height, width = pixels.shape[2:]
    scale = size / min(height, width)
    target = (max(size, round(height * scale)), max(size, round(width * scale)))
    if target != (height, width):
        pixels = torch.nn.functional.interpolate(pixels, size=target, mode="bilinear", antialias=True)
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    return pixels[:, :, top : top + size, left : left + size].contiguous()


def padded(pixels: UInt8[Tensor, "N C h w"], to: int) -> Pixels:
    """The images with black borders up to `to` pixels a side."""
    down, across = to - pixels.shape[2], to - pixels.shape[3]
    borders = (across // 2, across - across // 2, down // 2, down - down // 2)
    return torch.nn.functional.pad(pixels, borders)
