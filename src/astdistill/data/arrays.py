"""Conversion of arrays and tensors to uint8 pixels `[N, C, H, W]`: which axis holds the channels, and the value
range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..runtime.errors import InputError, unknown
from ..runtime.shapes import Pixels
from .preprocessing import unit_formula

Layout = Literal["NHWC", "NCHW"]
"""Channels last or first; only arrays need it, tensors are always `[N, C, H, W]`."""
LAST_CHANNELS = 4
"""Most channels that a last axis can have without further evidence: no image is so narrow."""
VALUES = 1 << 24
"""Values that are converted at once."""
DEPTHS = (10, 12, 14, 16)
"""Bits per value that cameras and scanners write, beyond eight."""
ROUNDING = 1e-4
"""How far fractions may lie outside [0, 1] because of rounding."""
QUOTIENT = "images / "
DARK = 64
"""Level, of 256: images whose largest value is below it may have another white level."""
OTHERWISE = "(otherwise: --data.white-level)"
PLAIN = (
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128, torch.bool),
)
"""Data types that torch computes with."""


@dataclass(frozen=True)
class White:
    """The value range of images: `top` is white, 0 is black."""

    top: float
    read: tuple[str, ...] = ()
    """How the values were interpreted, for the summary."""
    guessed: tuple[str, ...] = ()
    """Interpretations that may be wrong, for the summary."""

    def pixels(self, values: Any) -> Tensor:
        """Convert values, a numpy array or a tensor, to uint8 of the same shape, block by block."""
        if isinstance(values, Tensor) and values.dtype == torch.uint8 and self.top == 255:
            return values.contiguous()
        filled = torch.empty(tuple(values.shape), dtype=torch.uint8)
        rows = max(1, VALUES // max(1, filled[:1].numel()))
        for start in range(0, len(values), rows):
            block = values[start : start + rows]
            filled[start : start + rows] = self._scaled(block if isinstance(block, Tensor) else _as_tensor(block))
        return filled

    def _scaled(self, block: Tensor) -> Tensor:
        if self.top == 255:
            return block.to(torch.uint8)
        if self.top == 1 and block.is_floating_point():
            return block.mul(255).round().clamp(0, 255).to(torch.uint8)
        return block.to(torch.float64).mul(255 / self.top).round().clamp(0, 255).to(torch.uint8)


BYTES = White(255.0)
FRACTIONS = White(1.0)


@dataclass(frozen=True)
class JointLevels:
    """The value ranges of several parts: one for the integers of all parts, one for the floats of all parts."""

    integers: White = BYTES
    floats: White = FRACTIONS

    @property
    def read(self) -> tuple[str, ...]:
        """How the values were interpreted, for the summary."""
        return (*self.integers.read, *self.floats.read)

    @property
    def guessed(self) -> tuple[str, ...]:
        """Interpretations that may be wrong, for the summary."""
        return (*self.integers.guessed, *self.floats.guessed)

    def pixels(self, values: Any) -> Tensor:
        """Convert values, a numpy array or a tensor, to uint8 of the same shape."""
        return {True: self.floats, False: self.integers}["float" in str(values.dtype)].pixels(values)


def joint_levels(arrays: Sequence[Any], source: str, white: float | None = None) -> JointLevels:
    """The value ranges of all these arrays or tensors; `white` is the white level, if it is given.

    Raises InputError as `levels_of` does, and for values beyond `white`.
    """
    floats = [array for array in arrays if "float" in str(array.dtype)]
    whole = [array for array in arrays if "float" not in str(array.dtype)]
    joint = JointLevels()
    if white is not None:
        low, high = _extremes(arrays)
        if not (low >= 0 and high <= white):
            raise InputError(f"The images of {source} lie in [{low:g}, {high:g}], beyond the white level of {white:g}.")
        return JointLevels(White(white, (f"images: {white:g} is white",)), White(white))
    if whole:
        joint = replace(joint, integers=levels_of(whole, source))
    if floats:
        joint = replace(joint, floats=levels_of(floats, source))
    return joint


def levels_of(arrays: Sequence[Any], source: str) -> White:
    """The value range of all these arrays or tensors of one kind, from their minimum and maximum.

    Bytes and whole numbers up to 255 are kept, fractions in [0, 1] are shares of white, floats that are whole numbers
    up to 255 are kept, larger whole numbers have the smallest usual depth that holds the maximum (10, 12, 14 or 16
    bits). Raises InputError, with the factor that would help, for anything else.
    """
    kinds = {str(array.dtype).removeprefix("torch.") for array in arrays}
    if any("bool" in kind or "complex" in kind for kind in kinds):
        raise InputError(
            f"The images of {source} are {' and '.join(sorted(kinds))}; give uint8 0..255, or floats in [0, 1]."
        )
    low, high = _extremes(arrays)
    if all("int" in kind for kind in kinds):
        return _whole_levels(low, high, kinds, source)
    if low >= -ROUNDING and high <= 1 + ROUNDING:
        return replace(FRACTIONS, guessed=dark(high, 1))
    if low >= 0 and 1 < high <= 255 and all(_are_whole(array) for array in arrays):
        note = f"images: floats that are whole numbers {low:g}..{high:g}, read as 0..255"
        return White(255.0, (note,), dark(high, 255))
    raise InputError(
        f"Float images of {source} lie in [{low:g}, {high:g}], not in [0, 1]; {undone(low, high)}, or give uint8."
    )


def dark(largest: float, white: float, otherwise: str = OTHERWISE) -> tuple[str, ...]:
    """A note if the largest value is so far below white that most levels would be lost if another white level were
    meant; empty otherwise."""
    if not 0 < largest * 255 / white < DARK:
        return ()
    return (f"images: the largest value is {largest:g}, and {white:g} is white {otherwise}",)


def undone(low: float, high: float) -> str:
    """Advice on how to bring values of this range into [0, 1], as far as it can be inferred."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "replace what is not a number"
    formula = unit_formula(low, high)
    if formula.startswith(QUOTIENT):
        return f"divide them by {formula.removeprefix(QUOTIENT)}"
    return ": ".join(["undo their normalisation", *[formula] * bool(formula)])


def to_uint8(values: Tensor, source: str) -> Tensor:
    """Convert values to uint8 of the same shape: whole numbers 0..255 are kept, fractions in [0, 1] are multiplied by
    255 and rounded.

    Raises InputError for anything else. Use it for single images only: the range of larger values can be inferred only
    from a whole data set.
    """
    levels = levels_of([values], source)
    kind, top = "Integer", 255
    if values.is_floating_point():
        kind, top = "Float", 1
    if levels.top != top:
        low, high = _extremes([values])
        raise InputError(
            f"{kind} images of {source} lie in [{low:g}, {high:g}], not in [0, {top}]; {undone(low, high)} as floats, "
            f"or give uint8."
        )
    return levels.pixels(values)


def _whole_levels(low: float, high: float, kinds: set[str], location: str) -> White:
    if low >= 0 and high <= 255:
        return replace(BYTES, guessed=dark(high, 255))
    bits = next((bits for bits in DEPTHS if high < 1 << bits), None)
    if low < 0 or bits is None:
        raise InputError(
            f"Integer images of {location} lie in [{low:g}, {high:g}], not in [0, 255]; scale them, or give uint8."
        )
    if "uint8" in kinds:
        raise InputError(
            f"The parts of {location} are of types {' and '.join(sorted(kinds))}; store all images in one."
        )
    top = (1 << bits) - 1
    note = f"images: the largest value is {high:g}, so {top} is white ({bits} bits) {OTHERWISE}"
    return White(float(top), (), (note,))


def _extremes(arrays: Sequence[Any]) -> tuple[float, float]:
    ranges = [(float(array.min()), float(array.max())) for array in arrays if len(array) and 0 not in array.shape]
    if not ranges:
        return 0.0, 0.0
    lows, highs = zip(*ranges, strict=True)
    return float(np.min(lows)), float(np.max(highs))  # np.min and np.max propagate NaN


def _are_whole(array: Any) -> bool:
    rows = max(1, VALUES // max(1, int(np.prod(array.shape[1:]))))
    blocks = (array[start : start + rows] for start in range(0, len(array), rows))
    return all(bool((block == block.round()).all()) for block in blocks)


def native(array: np.ndarray) -> np.ndarray:
    """The array in this machine's byte order, with a data type that torch supports."""
    if array.dtype == np.longdouble:
        return array.astype(np.float64)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _as_tensor(block: np.ndarray) -> Tensor:
    if block.dtype.kind in "ui" and block.dtype != np.uint8:
        block = block.astype(np.int64)
    return torch.from_numpy(np.require(block, requirements=["C", "W"]))  # torch warns about read-only arrays


def checked_layout(name: str) -> Layout:
    """The layout of that name. Raises InputError for any other than NHWC and NCHW."""
    found = next((layout for layout in get_args(Layout) if layout == name), None)
    if found is None:
        raise unknown("layout", name, get_args(Layout))
    return found


def channels_first(array: Any, source: str, layout: Layout | None = None) -> np.ndarray:
    """The array in native byte order, as a view `[N, C, H, W]`.

    Takes `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]` with any number of channels, none of them dropped. Without a
    `layout`, the channels are the last axis or the one after N, whichever is shorter than both other axes of an image.
    Raises InputError if neither is (16 channels of 8×8), because both layouts are possible.
    """
    if array.dtype.kind not in "uif":
        raise InputError(f"The images of {source} are of type {array.dtype}; give uint8 0..255, or floats in [0, 1].")
    values = native(array)
    if values.ndim == 3 and 0 not in values.shape[1:]:
        return values[:, None]
    if values.ndim != 4 or 0 in values.shape[1:]:
        raise InputError(
            f"The images of {source} have shape {tuple(array.shape)}; give [N, H, W], [N, H, W, C] or [N, C, H, W]."
        )
    layout = layout or detect_layout(values.shape)
    if layout is None:
        raise InputError(
            f"The images of {source} have shape {tuple(values.shape)}, which could be [N, H, W, C] or [N, C, H, W]; "
            "in an .npz file store layout='NHWC' or layout='NCHW' beside them, or give dataset_from_tensors a tensor "
            "[N, C, H, W]."
        )
    return values.transpose(0, 3, 1, 2) if layout == "NHWC" else values


def from_array(array: Any, source: str, layout: Layout | None = None) -> Pixels:
    """Pixels of a single numpy array; see `channels_first` and `to_uint8`."""
    return to_uint8(_as_tensor(channels_first(array, source, layout)), source).contiguous()


def checked_tensor(images: Tensor, source: str) -> Tensor:
    """The tensor on the CPU, as `[N, C, H, W]` with any number of channels; `[N, H, W]` gets one channel.

    Raises InputError for a shape that is clearly `[N, H, W, C]`, and for a tensor that `plain_tensor` rejects.
    """
    values = plain_tensor(images, f"The images of {source}")
    if values.dtype in (torch.uint16, torch.uint32, torch.uint64):
        values = values.to(torch.int64)  # torch supports few operations on them
    if values.ndim == 3:
        values = values.unsqueeze(1)
    if values.ndim != 4:
        raise InputError(
            f"The images of {source} have shape {tuple(images.shape)}; give [N, C, H, W], or [N, H, W] for grey images."
        )
    if channels_last(values.shape):
        raise InputError(
            f"The images of {source} have shape {tuple(images.shape)}, channels last; give images.permute(0, 3, 1, 2)."
        )
    return values


def plain_tensor(values: Tensor, called: str) -> Tensor:
    """The tensor, detached and on the CPU. Raises InputError for a tensor that is sparse, nested, quantized or on the
    meta device, or whose type torch can only store, such as floats of 8 bits."""
    if values.is_nested:
        raise InputError(f"{called} are a nested tensor; give a list of tensors of one shape.")
    if values.layout != torch.strided:
        kind = str(values.layout).removeprefix("torch.")
        raise InputError(f"{called} are a tensor of layout {kind}; give the dense one: to_dense().")
    if values.is_quantized:
        raise InputError(f"{called} are a quantized tensor; give its floats: dequantize().")
    if values.is_meta:
        raise InputError(f"{called} are a tensor on the meta device, which holds no values; give one on the CPU.")
    if values.dtype not in PLAIN:
        kind = str(values.dtype).removeprefix("torch.")
        raise InputError(f"{called} are of type {kind}; give floats of 16 bits or more: float().")
    return values.detach().to("cpu")


def from_tensor(images: Tensor, source: str) -> Pixels:
    """Pixels of a single tensor; see `checked_tensor` and `to_uint8`."""
    return to_uint8(checked_tensor(images, source), source).contiguous()


def channels_last(shape: Sequence[int]) -> bool:
    """Whether a shape of four axes is clearly `[N, H, W, C]`: the last axis is the shortest and either has at most 4
    entries or follows two equal ones."""
    first, middle, last = shape[1:]
    return last < min(first, middle) and (last <= LAST_CHANNELS or first == middle)


def detect_layout(shape: Sequence[int]) -> Layout | None:
    """The layout inferred from a shape of four axes: the channels are the last axis or the one after N, whichever is
    shorter than both other axes of an image; None if neither is."""
    first, middle, last = shape[1:]
    if last < min(first, middle):
        return "NHWC"
    if first < min(middle, last):
        return "NCHW"
    return None
