"""Images in any common form as uint8 pixels `[N, C, H, W]`, and the two changes of size: resize with crop, and padding."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from ..errors import InputError, unknown
from ..shapes import Pixels

Layout = Literal["NHWC", "NCHW"]
"""Channels last or first; only arrays need it, tensors are always `[N, C, H, W]`."""
LAST_CHANNELS = 4
"""No image is so narrow, so a last axis of so few is not a width."""


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


def checked_layout(name: str) -> Layout:
    """The layout of that name. Raises InputError for any other than NHWC and NCHW."""
    found = next((layout for layout in get_args(Layout) if layout == name), None)
    if found is None:
        raise unknown("layout", name, get_args(Layout))
    return found


def from_array(array: Any, where: str, layout: Layout | None = None) -> Pixels:
    """Pixels of a numpy array: `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]` with any number of channels, none of them dropped.

    Without a `layout`, the channels are the last axis or the one after N, whichever is shorter than both other axes of an image.
    Raises InputError where neither is (16 channels of 8×8), because it could be read both ways.
    """
    if array.dtype.kind not in "uif":
        raise InputError(f"The images of {where} are of type {array.dtype}; give uint8 0..255, or floats in [0, 1].")
    values = torch.from_numpy(
        np.ascontiguousarray(array.astype(np.int64) if array.dtype.kind in "ui" and array.dtype != np.uint8 else array)
    )
    if values.ndim == 3:
        values = values.unsqueeze(1)
    elif values.ndim != 4 or 0 in values.shape[1:]:
        raise InputError(f"The images of {where} have shape {tuple(array.shape)}; give [N, H, W], [N, H, W, C] or [N, C, H, W].")
    elif (layout or _seen_layout(values, where)) == "NHWC":
        values = values.permute(0, 3, 1, 2)
    return to_uint8(values, where).contiguous()


def from_tensor(images: Tensor, where: str) -> Pixels:
    """Pixels of a tensor `[N, C, H, W]` with any number of channels, or `[N, H, W]`.

    Raises InputError for what was plainly meant as `[N, H, W, C]`: a last axis that is the shortest and either at most 4 long, or
    behind two equal ones.
    """
    values = images.detach().to("cpu")
    values = values.unsqueeze(1) if values.ndim == 3 else values
    if values.ndim != 4:
        raise InputError(f"The images of {where} have shape {tuple(images.shape)}; give [N, C, H, W], or [N, H, W] for grey images.")
    first, middle, last = values.shape[1:]
    if last < min(first, middle) and (last <= LAST_CHANNELS or first == middle):
        raise InputError(f"The images of {where} have shape {tuple(images.shape)}, channels last; give images.permute(0, 3, 1, 2).")
    return to_uint8(values, where).contiguous()


def _seen_layout(values: Tensor, where: str) -> Layout:
    first, middle, last = values.shape[1:]
    if last < min(first, middle):
        return "NHWC"
    if first < min(middle, last):
        return "NCHW"
    raise InputError(
        f"The images of {where} have shape {tuple(values.shape)}, which could be [N, H, W, C] or [N, C, H, W]; "
        "in an .npz file store layout='NHWC' or layout='NCHW' beside them, or give dataset_from_tensors a tensor [N, C, H, W]."
    )


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
