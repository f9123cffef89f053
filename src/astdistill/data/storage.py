"""Storage of the images of a split: float32, bytes on the device, or bytes in a file. All give the same batches."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..runtime.files import check_regular
from ..runtime.machine import ROOT, memory_limit
from ..runtime.seeds import to_device
from ..runtime.shapes import Images, Pixels
from .digests import read_notes, tensor_digest, write_notes
from .preprocessing import BLOCK, MIXING, Preprocessing

if TYPE_CHECKING:
    from .dataset import DataConfig

Residence = Literal["float32", "uint8", "disk"]
"""Preprocessed in memory; as bytes in the device's memory, preprocessed batch by batch; as bytes in a file."""
SHARE = 0.3
"""The share of all memory for images: workers get a copy, and networks need the rest."""


def residence(memory: str, images: int, shape: Sequence[int], whiten: str, device: str | torch.device) -> Residence:
    """The storage for `images` images of one shape (channels, height, width): `memory` itself, or for 'auto' one that
    fits.

    On an accelerator bytes are preferred, since standardising a batch there costs nothing; whitening is a D×D product
    for each image, and is stored precomputed if that fits. The limit depends on the installed memory, not on the free
    memory, so that a resumed run computes in the same way as the original one.
    """
    if memory == "float32" or memory == "uint8" or memory == "disk":
        return memory
    pixels, on_cuda = images * math.prod(shape), torch.device(device).type == "cuda"
    room = SHARE * (_cuda_bytes(device) if on_cuda else host_bytes())
    if (not on_cuda or whiten in MIXING) and 4 * pixels <= room:
        return "float32"
    return "uint8" if pixels <= room else "disk"


def held_bytes(storage: Residence, images: int, shape: Sequence[int]) -> int:
    """Bytes of memory that the images occupy."""
    return {"float32": 4, "uint8": 1, "disk": 0}[storage] * images * math.prod(shape)


def _cuda_bytes(device: str | torch.device) -> int:
    """The memory of a GPU; that of this machine if it has no GPU, as in estimates for another machine."""
    return torch.cuda.get_device_properties(device).total_memory if torch.cuda.is_available() else host_bytes()


def host_bytes() -> int:
    """Bytes of memory of this machine or of the current container; 8 GiB if the system does not report it."""
    has_sysconf = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if has_sysconf else 8 << 30
    return min(installed, memory_limit(ROOT) or installed)


VALUES = 1 << 22
"""Values that are copied or preprocessed at once."""


class Holding(ABC):
    """Storage of N images. Indexing by a slice or by row numbers gives those images, preprocessed, on the device."""

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """N, channels, height, width."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of indexed images."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device of indexed images."""

    @property
    def indexed_on(self) -> torch.device:
        """The device that row numbers are read on."""
        return self.device

    @abstractmethod
    def __getitem__(self, indices: slice | Tensor) -> Tensor: ...

    @abstractmethod
    def select(self, indices: Int[Tensor, " rows"]) -> Holding:
        """The images at `indices`, in that order, stored in the same way."""

    @abstractmethod
    def to(self, device: str | torch.device) -> Holding:
        """The same images on another device."""

    def __len__(self) -> int:
        return self.shape[0]


@dataclass(frozen=True, eq=False)
class ByteImages(Holding):
    """uint8 images in the memory of a device; a quarter of float32's."""

    pixels: Pixels
    preprocessing: Preprocessing

    @property
    def shape(self) -> torch.Size:
        return self.pixels.shape

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def __getitem__(self, indices: slice | Tensor) -> Images:
        return self.preprocessing.map_batch(_to_unit_range(self.pixels[indices]))

    def select(self, indices: Int[Tensor, " rows"]) -> Self:
        return replace(self, pixels=self.pixels[indices])

    def to(self, device: str | torch.device) -> Self:
        return replace(self, pixels=self.pixels.to(device), preprocessing=self.preprocessing.to(device))


def load_array(path: Path, mapped: bool = False) -> Any:
    """The array in an .npy file, memory-mapped if `mapped`. Raises ValueError or OSError for any other file."""
    mode: Literal["r"] | None = None
    if mapped:
        mode = "r"
    check_regular(path)
    try:
        return np.load(path, mmap_mode=mode, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # numpy parses the header as Python, which raises a dozen unrelated types
        raise ValueError(f"{path} is no whole .npy file ({error})") from error


class Origin(NamedTuple):
    """The source of the images in a file, so that another machine can recreate the file."""

    config: DataConfig
    fingerprint: str
    """Of the whole set."""
    part: str
    """train, test or validation."""


class MappedImages(Holding):
    """uint8 images `[N, C, H, W]` in an .npy file, or some rows of it in any order, read a batch at a time.

    Indexing by a slice or by row numbers gives a copy: the stored bytes, or, after `prepared`, preprocessed images. A
    pickle holds the path, not the images, so that other processes map the same file; `elsewhere` is for another machine
    and includes the source of the file (`origin`).
    Raises ValueError or OSError if the file is not such an array.
    """

    def __init__(
        self, path: Path, chosen: Int[Tensor, " rows"] | None = None, *, known_digest: str = "", remember: bool = True
    ) -> None:
        """Map the file. `known_digest` is the digest of these images, or empty; with `remember`, digests of chosen
        rows are cached in a file next to it."""
        self.path, self._chosen = path, chosen
        mapped = load_array(path, mapped=True)
        if mapped.dtype != np.uint8 or mapped.ndim != 4:
            raise ValueError(f"{path} holds {mapped.dtype} of shape {mapped.shape}, no images")
        self._array = mapped.view(np.ndarray)
        self._digest, self._remember = known_digest, remember
        self._preprocessing: Preprocessing | None = None
        self._device = torch.device("cpu")
        self.origin: Origin | None = None

    @property
    def shape(self) -> torch.Size:
        count = self._array.shape[0] if self._chosen is None else len(self._chosen)
        return torch.Size((count, *self._array.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8 if self._preprocessing is None else torch.float32

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def indexed_on(self) -> torch.device:
        return torch.device("cpu")

    def __getitem__(self, indices: slice | Tensor) -> Tensor:
        pixels = self._read_pixels(indices)
        if self._preprocessing is None:
            return pixels
        return self._preprocessing.map_batch(_to_unit_range(to_device(pixels, self._device)))

    def select(self, indices: Int[Tensor, " rows"]) -> MappedImages:
        rows = indices.cpu()
        chosen = MappedImages(self.path, rows if self._chosen is None else self._chosen[rows], remember=self._remember)
        chosen.origin = self.origin
        return chosen._set_preprocessing(self._preprocessing, self._device)

    def to(self, device: str | torch.device) -> MappedImages:
        preprocessing = None if self._preprocessing is None else self._preprocessing.to(device)
        return self._copy()._set_preprocessing(preprocessing, device)

    def prepared(self, preprocessing: Preprocessing, device: str | torch.device) -> MappedImages:
        """The same images, preprocessed on the device batch by batch when they are read."""
        return self._copy()._set_preprocessing(preprocessing.to(device).for_batches(), device)

    def digest(self) -> str:
        """`tensor_digest` of the bytes, read once. Only for images that are not `prepared`."""
        self._digest = self._digest or self._cached_digest()
        return self._digest

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return _reopen_mapped, (self.path, self._chosen, self._preprocessing, self._device)

    def elsewhere(self) -> tuple[Any, tuple[Any, ...]]:
        """The reduce value for another machine, which opens its own file of the images or recreates it from
        `origin`."""
        return _recreate_mapped, (self.path, self._chosen, self._preprocessing, self._device, self.origin)

    def _read_pixels(self, indices: slice | Tensor) -> Pixels:
        if self._chosen is None and isinstance(indices, slice):
            return torch.from_numpy(self._array[indices].copy())
        if isinstance(indices, slice):
            rows = torch.arange(len(self))[indices] if self._chosen is None else self._chosen[indices]
        else:
            rows = indices.cpu() if self._chosen is None else self._chosen[indices.cpu()]
        ascending = rows.sort()  # sequential reads are faster
        read = torch.from_numpy(self._array[ascending.values.numpy()])
        ordered = torch.empty_like(read)
        ordered[ascending.indices] = read
        return ordered

    def _cached_digest(self) -> str:
        if self._chosen is None or not self._remember:
            return tensor_digest(self)
        notes_path, rows = self.path.with_suffix(".digests.json"), tensor_digest(self._chosen)
        cached = read_notes(notes_path).get(rows)
        if cached is None:
            cached = tensor_digest(self)
            write_notes(notes_path, {rows: cached})
        return cached

    def _copy(self) -> MappedImages:
        copy = MappedImages(self.path, self._chosen, known_digest=self._digest, remember=self._remember)
        copy.origin = self.origin
        return copy

    def _set_preprocessing(self, preprocessing: Preprocessing | None, device: str | torch.device) -> MappedImages:
        self._preprocessing, self._device = preprocessing, torch.device(device)
        return self


def _reopen_mapped(
    path: Path, chosen: Tensor | None, preprocessing: Preprocessing | None, device: torch.device
) -> MappedImages:
    """Unpickle `MappedImages`; see `__reduce__`."""
    return MappedImages(path, chosen)._set_preprocessing(preprocessing, device)


def _recreate_mapped(
    path: Path,
    chosen: Tensor | None,
    preprocessing: Preprocessing | None,
    device: torch.device,
    origin: Origin | None,
) -> MappedImages:
    """Unpickle `MappedImages` on another machine; see `elsewhere`."""
    from .loading import file_here  # a cyclic import

    return _reopen_mapped(file_here(path, origin), chosen, preprocessing, device)


StoredImages = Images | Pixels | Holding
"""The images of a split: a tensor, or an object that is indexed like one and reads them on access."""


def pixel_digest(pixels: StoredImages) -> str:
    """`tensor_digest` of the bytes, the same for each kind of storage."""
    return pixels.digest() if isinstance(pixels, MappedImages) else tensor_digest(pixels)


def chosen_rows(images: Any, indices: Int[Tensor, " rows"]) -> Any:
    """The images at `indices`, in that order, in the same storage; those of a file are not read."""
    return images.select(indices) if isinstance(images, Holding) else images[indices]


def in_batches(images: StoredImages, size: int, order: Int[Tensor, " rows"] | None = None) -> Iterator[Tensor]:
    """Batches of `size` images in the stored order, or in `order`, whose copy to an accelerator does not block."""
    if order is None:
        return (images[start : start + size] for start in range(0, len(images), size))
    device = images.indexed_on if isinstance(images, Holding) else images.device
    return (images[rows] for rows in to_device(order, device).split(size))


def float_images(pixels: StoredImages, preprocessing: Preprocessing, device: str | torch.device) -> Images:
    """All images, preprocessed block by block, so that no other tensor is as large as the result."""
    shape = tuple(pixels.shape)
    on_device = preprocessing.to(device)
    on_device = (
        on_device.for_batches() if len(pixels) >= math.prod(shape[1:]) else on_device
    )  # for fewer images two thin products are cheaper
    result = torch.empty(shape, dtype=torch.float32, device=device)
    # The last bits of a product may depend on its number of rows; pixelwise maps can use small blocks.
    rows = BLOCK if preprocessing.mixes else max(1, VALUES // math.prod(shape[1:]))
    for start in range(0, len(pixels), rows):
        result[start : start + rows] = on_device.map_batch(_to_unit_range(pixels[start : start + rows].to(device)))
    return result


def byte_images(pixels: StoredImages, preprocessing: Preprocessing, device: str | torch.device) -> ByteImages:
    """A copy of the bytes on the device."""
    copied = torch.empty(tuple(pixels.shape), dtype=torch.uint8, device=device)
    rows = max(1, VALUES // math.prod(copied.shape[1:]))
    for start in range(0, len(pixels), rows):
        copied[start : start + rows] = pixels[start : start + rows].to(device)
    return ByteImages(copied, preprocessing.to(device).for_batches())


def _to_unit_range(pixels: Pixels) -> Images:
    """Bytes as floats in [0, 1], a new tensor."""
    return pixels.to(torch.float32).div_(255)
