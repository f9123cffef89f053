"""Three ways to hold the images of a split, which give the same batches: as float32, as bytes on the device, as bytes in a file."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Int
from torch import Tensor

from ..seeds import sent
from ..shapes import Images, Pixels
from .pixel_file import PixelFile, StoredPixels
from .preprocessing import BLOCK, Preprocessing

VALUES = 1 << 22
"""Values that are moved or preprocessed at once."""


class Holding(ABC):
    """N images; indexed by a slice or by row numbers it gives those as a network sees them, on the device."""

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """N, channels, height, width."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where batches are wanted."""

    @property
    def indexed_on(self) -> torch.device:
        """Where row numbers are read."""
        return self.device

    @abstractmethod
    def __getitem__(self, indices: slice | Tensor) -> Images: ...

    @abstractmethod
    def select(self, indices: Int[Tensor, " rows"]) -> Images | Holding:
        """The images at `indices`, in that order, held in the same way."""

    @abstractmethod
    def to(self, device: str | torch.device) -> Images | Holding:
        """The same images on another device."""

    def __len__(self) -> int:
        return self.shape[0]

    def batches(self, size: int, order: Int[Tensor, " rows"] | None = None) -> Iterator[Images]:
        """The images in the stored order or in another, `size` at a time; an accelerator never has to wait for the order."""
        if order is None:
            return (self[start : start + size] for start in range(0, len(self), size))
        return (self[rows] for rows in sent(order, self.indexed_on).split(size))


@dataclass(frozen=True, eq=False)
class FloatImages(Holding):
    """Images that are preprocessed already."""

    images: Images

    @property
    def shape(self) -> torch.Size:
        return self.images.shape

    @property
    def device(self) -> torch.device:
        return self.images.device

    def __getitem__(self, indices: slice | Tensor) -> Images:
        return self.images[indices]

    def select(self, indices: Int[Tensor, " rows"]) -> Images:
        return self.images[indices]

    def to(self, device: str | torch.device) -> Images:
        return self.images.to(device)


@dataclass(frozen=True, eq=False)
class ByteImages(Holding):
    """uint8 images in the memory of a device; a quarter of float32's."""

    pixels: Pixels
    preprocessing: Preprocessing

    @property
    def shape(self) -> torch.Size:
        return self.pixels.shape

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def __getitem__(self, indices: slice | Tensor) -> Images:
        return self.preprocessing.apply(_unit(self.pixels[indices]))

    def select(self, indices: Int[Tensor, " rows"]) -> Self:
        return replace(self, pixels=self.pixels[indices])

    def to(self, device: str | torch.device) -> Self:
        return replace(self, pixels=self.pixels.to(device), preprocessing=self.preprocessing.to(device))


@dataclass(frozen=True, eq=False)
class DiskImages(Holding):
    """uint8 images in a file, of which a batch at a time is read."""

    file: PixelFile
    preprocessing: Preprocessing
    computed_on: torch.device

    @property
    def shape(self) -> torch.Size:
        return self.file.shape

    @property
    def device(self) -> torch.device:
        return self.computed_on

    @property
    def indexed_on(self) -> torch.device:
        return torch.device("cpu")

    def __getitem__(self, indices: slice | Tensor) -> Images:
        return self.preprocessing.apply(_unit(sent(self.file[indices], self.computed_on)))

    def select(self, indices: Int[Tensor, " rows"]) -> Self:
        return replace(self, file=self.file.rows(indices.cpu()))

    def to(self, device: str | torch.device) -> Self:
        return replace(self, preprocessing=self.preprocessing.to(device), computed_on=torch.device(device))


def float_images(pixels: StoredPixels, preprocessing: Preprocessing, device: str | torch.device) -> Images:
    """All images preprocessed, block by block, so that nothing but the result is as large as the result."""
    shape = tuple(pixels.shape)
    here = preprocessing.to(device)
    here = here.for_batches() if len(pixels) >= math.prod(shape[1:]) else here  # for fewer images two slim products are cheaper
    found = torch.empty(shape, device=device)
    # A product's last bits may depend on how many rows it has; what is done pixel by pixel takes small blocks.
    rows = BLOCK if preprocessing.kind == "zca" else max(1, VALUES // math.prod(shape[1:]))
    for start in range(0, len(pixels), rows):
        found[start : start + rows] = here.apply(_unit(pixels[start : start + rows].to(device)))
    return found


def byte_images(pixels: StoredPixels, preprocessing: Preprocessing, device: str | torch.device) -> ByteImages:
    """A copy of the bytes on the device."""
    found = torch.empty(tuple(pixels.shape), dtype=torch.uint8, device=device)
    rows = max(1, VALUES // math.prod(found.shape[1:]))
    for start in range(0, len(pixels), rows):
        found[start : start + rows] = pixels[start : start + rows].to(device)
    return ByteImages(found, preprocessing.to(device).for_batches())


def disk_images(file: PixelFile, preprocessing: Preprocessing, device: str | torch.device) -> DiskImages:
    """The bytes where they are."""
    return DiskImages(file, preprocessing.to(device).for_batches(), torch.device(device))


def _unit(pixels: Pixels) -> Images:
    """Bytes in units of [0, 1], a new tensor."""
    return pixels.to(torch.float32).div_(255)
