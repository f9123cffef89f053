"""Where the images of a split are kept, with the same batches from each: float32, bytes on the device, or bytes in a
file."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..runtime.seeds import sent
from ..runtime.shapes import Images, Pixels
from .digests import read_notes, tensor_digest, write_notes
from .preprocessing import BLOCK, Preprocessing


class PixelFile:
    """uint8 images `[N, C, H, W]` in an .npy file, or some rows of it in any order.

    Indexed by a slice or by row numbers it gives a copy in memory; nothing else is read. A pickle of it holds the path
    and not the images, so that other processes map the same file. Raises ValueError or OSError where the file is not
    such an array.
    """

    dtype = torch.uint8

    def __init__(
        self, path: Path, chosen: Int[Tensor, " rows"] | None = None, *, known: str = "", remember: bool = True
    ) -> None:
        """Maps the file. `known` is the digest of these images, if it is; with `remember`, digests of chosen rows are
        noted beside the file and looked up there."""
        self.path, self._chosen = path, chosen
        mapped: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        if mapped.dtype != np.uint8 or mapped.ndim != 4:
            raise ValueError(f"{path} holds {mapped.dtype} of shape {mapped.shape}, no images")
        self._array = mapped.view(np.ndarray)
        self._digest, self._remember = known, remember

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
        chosen = indices if self._chosen is None else self._chosen[indices]
        return PixelFile(self.path, chosen, remember=self._remember)

    def digest(self) -> str:
        """`tensor_digest` of these images, read once."""
        self._digest = self._digest or self._noted_digest()
        return self._digest

    def _noted_digest(self) -> str:
        if self._chosen is None or not self._remember:
            return tensor_digest(self)
        notes, rows = self.path.with_suffix(".digests.json"), tensor_digest(self._chosen)
        found = read_notes(notes).get(rows)
        if found is None:
            found = tensor_digest(self)
            write_notes(notes, {rows: found})
        return found

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


Residence = Literal["float32", "uint8", "disk"]
"""Preprocessed in memory; as bytes in the device's memory, preprocessed batch by batch; as bytes in a file."""
LIMIT = Path("/sys/fs/cgroup/memory.max")
SHARE = 0.3
"""Of all memory, for images: workers are given a copy, and networks need the rest."""


def residence(memory: str, images: int, shape: Sequence[int], whiten: str, device: str | torch.device) -> Residence:
    """Where `images` images of one shape (channels, height, width) are kept: as `memory` says, or for 'auto' where they
    fit.

    On an accelerator bytes come first, since subtracting a mean there costs nothing; but ZCA is a D×D product for each
    image, and is kept done where that fits. What fits goes by the memory that the machine has, and not by what is free,
    which would make a resumed run compute in another way than the one it goes on with.
    """
    if memory == "float32" or memory == "uint8" or memory == "disk":
        return memory
    pixels, on_cuda = images * math.prod(shape), torch.device(device).type == "cuda"
    room = SHARE * (_cuda_bytes(device) if on_cuda else host_bytes())
    if (not on_cuda or whiten == "zca") and 4 * pixels <= room:
        return "float32"
    return "uint8" if pixels <= room else "disk"


def held_bytes(where: Residence, images: int, shape: Sequence[int]) -> int:
    """Memory that the images take there."""
    return {"float32": 4, "uint8": 1, "disk": 0}[where] * images * math.prod(shape)


def _cuda_bytes(device: str | torch.device) -> int:
    """The memory of a graphics card; this machine's where an estimate is asked for a card that is not there."""
    return torch.cuda.get_device_properties(device).total_memory if torch.cuda.is_available() else host_bytes()


def host_bytes() -> int:
    """The memory of this machine, or of the container that we are in. Where no system call tells, it counts as 8
    GiB."""
    known = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 8 << 30
    with suppress(OSError, ValueError):  # no such file, and 'max' where there is no limit
        found = min(found, int(LIMIT.read_text(encoding="ascii")))
    return found


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
        """The images in the stored order or in another, `size` at a time; an accelerator never has to wait for the
        order."""
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
    here = (
        here.for_batches() if len(pixels) >= math.prod(shape[1:]) else here
    )  # for fewer images two slim products are cheaper
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
