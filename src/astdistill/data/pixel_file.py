"""Pixels that stay in a file: mapped into memory, and read when some of them are asked for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..shapes import Pixels
from .statistics import tensor_digest


class PixelFile:
    """uint8 images `[N, C, H, W]` in an .npy file, or some rows of it in any order.

    Indexed by a slice or by row numbers it gives a copy in memory; nothing else is read. A pickle of it holds the path and not the images,
    so that other processes map the same file. Raises ValueError or OSError where the file is not such an array.
    """

    dtype = torch.uint8

    def __init__(self, path: Path, chosen: Int[Tensor, " rows"] | None = None) -> None:
        self.path, self._chosen = path, chosen
        mapped: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        if mapped.dtype != np.uint8 or mapped.ndim != 4:
            raise ValueError(f"{path} holds {mapped.dtype} of shape {mapped.shape}, no images")
        self._array = mapped.view(np.ndarray)
        self._digest = ""

    @property
    def shape(self) -> torch.Size:
        """N, channels, height, width."""
        count = self._array.shape[0] if self._chosen is None else len(self._chosen)
        return torch.Size((count, *self._array.shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: slice | Tensor) -> Pixels:
        if self._chosen is None and isinstance(indices, slice):
            return torch.from_numpy(self._array[indices].copy())
        if isinstance(indices, slice):
            rows = torch.arange(len(self))[indices] if self._chosen is None else self._chosen[indices]
        else:
            rows = indices.cpu() if self._chosen is None else self._chosen[indices.cpu()]
        ascending = rows.sort()  # a disk reads forwards
        read = torch.from_numpy(self._array[ascending.values.numpy()])
        found = torch.empty_like(read)
        found[ascending.indices] = read
        return found

    def rows(self, indices: Int[Tensor, " rows"]) -> PixelFile:
        """The images at `indices`, in that order, still in the file."""
        return PixelFile(self.path, indices if self._chosen is None else self._chosen[indices])

    def digest(self) -> str:
        """`tensor_digest` of these images, read once."""
        self._digest = self._digest or tensor_digest(self)
        return self._digest

    def numel(self) -> int:
        """How many values all images hold together."""
        return math.prod(self.shape)

    def __reduce__(self) -> tuple[type[PixelFile], tuple[Path, Tensor | None]]:
        return PixelFile, (self.path, self._chosen)


StoredPixels = Pixels | PixelFile
"""Pixels in memory or in a file; both have a shape, a length and rows by slice and by number."""


def chosen_rows(pixels: StoredPixels, indices: Int[Tensor, " rows"]) -> StoredPixels:
    """The images at `indices`, in that order; those of a file stay there."""
    return pixels.rows(indices) if isinstance(pixels, PixelFile) else pixels[indices]


def pixel_digest(pixels: StoredPixels) -> str:
    """`tensor_digest` of the images, the same wherever they lie."""
    return pixels.digest() if isinstance(pixels, PixelFile) else tensor_digest(pixels)
