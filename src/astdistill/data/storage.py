"""Where the images of a split are kept, with the same batches from each: float32, bytes on the device, or bytes in a
file."""

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
    if (not on_cuda or whiten in MIXING) and 4 * pixels <= room:
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
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 8 << 30
    return min(installed, memory_limit(ROOT) or installed)


VALUES = 1 << 22
"""Values that are moved or preprocessed at once."""


class Holding(ABC):
    """N images; indexed by a slice or by row numbers it gives those, as a network sees them, on the device."""

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """N, channels, height, width."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of what indexing gives."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where batches are wanted."""

    @property
    def indexed_on(self) -> torch.device:
        """Where row numbers are read."""
        return self.device

    @abstractmethod
    def __getitem__(self, indices: slice | Tensor) -> Tensor: ...

    @abstractmethod
    def select(self, indices: Int[Tensor, " rows"]) -> Holding:
        """The images at `indices`, in that order, held in the same way."""

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
        return self.preprocessing.map_batch(_unit(self.pixels[indices]))

    def select(self, indices: Int[Tensor, " rows"]) -> Self:
        return replace(self, pixels=self.pixels[indices])

    def to(self, device: str | torch.device) -> Self:
        return replace(self, pixels=self.pixels.to(device), preprocessing=self.preprocessing.to(device))


def load_array(path: Path, mapped: bool = False) -> Any:
    """The array in an .npy file, or the file `mapped`. Raises ValueError or OSError where it is none."""
    mode: Literal["r"] | None = None
    if mapped:
        mode = "r"
    check_regular(path)
    try:
        return np.load(path, mmap_mode=mode, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # numpy reads the header as Python, which raises a dozen unrelated types
        raise ValueError(f"{path} is no whole .npy file ({error})") from error


class Origin(NamedTuple):
    """Where the images of a file come from, so that another machine can make the file from the same source."""

    config: DataConfig
    fingerprint: str
    """Of the whole set."""
    part: str
    """train, test or validation."""


class MappedImages(Holding):
    """uint8 images `[N, C, H, W]` in an .npy file, or some rows of it in any order, read a batch at a time.

    Indexed by a slice or by row numbers it gives a copy: bytes as they lie there, or, once `prepared`, images as a
    network sees them. A pickle of it holds the path and not the images, so that other processes map the same file;
    for another machine `elsewhere` also says what the file was made of (`origin`).
    Raises ValueError or OSError where the file is not such an array.
    """

    def __init__(
        self, path: Path, chosen: Int[Tensor, " rows"] | None = None, *, known: str = "", remember: bool = True
    ) -> None:
        """Maps the file. `known` is the digest of these images, if it is; with `remember`, digests of chosen rows are
        noted beside the file and looked up there."""
        self.path, self._chosen = path, chosen
        mapped = load_array(path, mapped=True)
        if mapped.dtype != np.uint8 or mapped.ndim != 4:
            raise ValueError(f"{path} holds {mapped.dtype} of shape {mapped.shape}, no images")
        self._array = mapped.view(np.ndarray)
        self._digest, self._remember = known, remember
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
        pixels = self._pixels(indices)
        if self._preprocessing is None:
            return pixels
        return self._preprocessing.map_batch(_unit(to_device(pixels, self._device)))

    def select(self, indices: Int[Tensor, " rows"]) -> MappedImages:
        rows = indices.cpu()
        chosen = MappedImages(self.path, rows if self._chosen is None else self._chosen[rows], remember=self._remember)
        chosen.origin = self.origin
        return chosen._seen_through(self._preprocessing, self._device)

    def to(self, device: str | torch.device) -> MappedImages:
        preprocessing = None if self._preprocessing is None else self._preprocessing.to(device)
        return self._copy()._seen_through(preprocessing, device)

    def prepared(self, preprocessing: Preprocessing, device: str | torch.device) -> MappedImages:
        """The same images as a network sees them: each batch is preprocessed, on the device, when it is read."""
        return self._copy()._seen_through(preprocessing.to(device).for_batches(), device)

    def digest(self) -> str:
        """`tensor_digest` of the bytes, read once. Only for images that are not `prepared`."""
        self._digest = self._digest or self._noted_digest()
        return self._digest

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return _mapped_again, (self.path, self._chosen, self._preprocessing, self._device)

    def elsewhere(self) -> tuple[Any, tuple[Any, ...]]:
        """A pickle for another machine, in whose own file the images may be: what makes them again there."""
        return _mapped_elsewhere, (self.path, self._chosen, self._preprocessing, self._device, self.origin)

    def _pixels(self, indices: slice | Tensor) -> Pixels:
        if self._chosen is None and isinstance(indices, slice):
            return torch.from_numpy(self._array[indices].copy())
        if isinstance(indices, slice):
            rows = torch.arange(len(self))[indices] if self._chosen is None else self._chosen[indices]
        else:
            rows = indices.cpu() if self._chosen is None else self._chosen[indices.cpu()]
        ascending = rows.sort()  # a disk reads forwards
        read = torch.from_numpy(self._array[ascending.values.numpy()])
        ordered = torch.empty_like(read)
        ordered[ascending.indices] = read
        return ordered

    def _noted_digest(self) -> str:
        if self._chosen is None or not self._remember:
            return tensor_digest(self)
        notes, rows = self.path.with_suffix(".digests.json"), tensor_digest(self._chosen)
        noted = read_notes(notes).get(rows)
        if noted is None:
            noted = tensor_digest(self)
            write_notes(notes, {rows: noted})
        return noted

    def _copy(self) -> MappedImages:
        copy = MappedImages(self.path, self._chosen, known=self._digest, remember=self._remember)
        copy.origin = self.origin
        return copy

    def _seen_through(self, preprocessing: Preprocessing | None, device: str | torch.device) -> MappedImages:
        self._preprocessing, self._device = preprocessing, torch.device(device)
        return self


def _mapped_again(
    path: Path, chosen: Tensor | None, preprocessing: Preprocessing | None, device: torch.device
) -> MappedImages:
    """What a pickle of `MappedImages` names."""
    return MappedImages(path, chosen)._seen_through(preprocessing, device)


def _mapped_elsewhere(
    path: Path,
    chosen: Tensor | None,
    preprocessing: Preprocessing | None,
    device: torch.device,
    origin: Origin | None,
) -> MappedImages:
    """What a pickle for another machine names."""
    from .loading import file_here  # which imports this module

    return _mapped_again(file_here(path, origin), chosen, preprocessing, device)


StoredImages = Images | Pixels | Holding
"""What a split holds: a tensor, or what is indexed like one and read when it is asked for."""


def pixel_digest(pixels: StoredImages) -> str:
    """`tensor_digest` of the bytes, the same wherever they lie."""
    return pixels.digest() if isinstance(pixels, MappedImages) else tensor_digest(pixels)


def chosen_rows(images: Any, indices: Int[Tensor, " rows"]) -> Any:
    """The images at `indices`, in that order, stored as they are here; those of a file stay there."""
    return images.select(indices) if isinstance(images, Holding) else images[indices]


def in_batches(images: StoredImages, size: int, order: Int[Tensor, " rows"] | None = None) -> Iterator[Tensor]:
    """The images in the stored order or in another, `size` at a time; an accelerator never has to wait for the
    order."""
    if order is None:
        return (images[start : start + size] for start in range(0, len(images), size))
    place = images.indexed_on if isinstance(images, Holding) else images.device
    return (images[rows] for rows in to_device(order, place).split(size))


def float_images(pixels: StoredImages, preprocessing: Preprocessing, device: str | torch.device) -> Images:
    """All images preprocessed, block by block, so that nothing but the result is as large as the result."""
    shape = tuple(pixels.shape)
    here = preprocessing.to(device)
    here = (
        here.for_batches() if len(pixels) >= math.prod(shape[1:]) else here
    )  # for fewer images two slim products are cheaper
    filled = torch.empty(shape, device=device)
    # A product's last bits may depend on how many rows it has; what is done pixel by pixel takes small blocks.
    rows = BLOCK if preprocessing.mixes else max(1, VALUES // math.prod(shape[1:]))
    for start in range(0, len(pixels), rows):
        filled[start : start + rows] = here.map_batch(_unit(pixels[start : start + rows].to(device)))
    return filled


def byte_images(pixels: StoredImages, preprocessing: Preprocessing, device: str | torch.device) -> ByteImages:
    """A copy of the bytes on the device."""
    filled = torch.empty(tuple(pixels.shape), dtype=torch.uint8, device=device)
    rows = max(1, VALUES // math.prod(filled.shape[1:]))
    for start in range(0, len(pixels), rows):
        filled[start : start + rows] = pixels[start : start + rows].to(device)
    return ByteImages(filled, preprocessing.to(device).for_batches())


def _unit(pixels: Pixels) -> Images:
    """Bytes in units of [0, 1], a new tensor."""
    return pixels.to(torch.float32).div_(255)
