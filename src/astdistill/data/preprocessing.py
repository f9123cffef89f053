"""The invertible map from [0, 1] images to what a network sees: none, standard (mean and deviation), or ZCA
whitening."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..runtime.config import digest
from ..runtime.errors import InputError
from ..runtime.shapes import Images
from .digests import Rows, tensor_digest
from .statistics import channel_moments

Kind = Literal["none", "standard", "zca"]
BLOCK = 4096
TENSORS: dict[str, tuple[str, ...]] = {
    "none": (),
    "standard": ("mean", "std"),
    "zca": ("mean", "eigenvalues", "eigenvectors"),
}


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """A fitted map; make one with `none`, `standard`, `fit_standard` or `fit_zca`, compare two by `hash`.

    `mean` and `std` are `[C]` for standard. For ZCA `mean` is `[D]`, and the covariance of the training images is kept
    as its eigenvalues `[D]` and eigenvectors `[D, D]` (columns), D = C·H·W: the one D×D matrix serves both directions.
    """

    kind: Kind
    shape: tuple[int, int, int]
    """Channels, height, width; a 0 fits any length."""
    mean: Tensor | None = None
    std: Tensor | None = None
    eigenvalues: Tensor | None = None
    eigenvectors: Tensor | None = None
    eps: float = 0.0
    statistics: str = ""
    """Names the exact statistics a ZCA was fitted on; see `hash`."""
    matrix: Tensor | None = None
    """U (Λ + eps)^(−½) Uᵀ `[D, D]`, where `for_batches` has made it."""

    @staticmethod
    def none(shape: tuple[int, int, int]) -> Preprocessing:
        """The identity on images of `shape` (channels, height, width)."""
        return Preprocessing("none", triple(shape))

    @staticmethod
    def standard(
        mean: Tensor | Sequence[float], std: Tensor | Sequence[float], shape: tuple[int, int, int] | None = None
    ) -> Preprocessing:
        """(x − mean) / std per channel; both `[C]`, in units of [0, 1] images. Without a shape, images of any height
        and width fit."""
        mean, std = torch.as_tensor(mean, dtype=torch.float32), torch.as_tensor(std, dtype=torch.float32)
        shape = (mean.numel(), 0, 0) if shape is None else triple(shape)
        if mean.shape != (shape[0],) or std.shape != (shape[0],) or not bool((std > 0).all()):
            raise InputError(
                f"Mean {mean.tolist()} and deviation {std.tolist()} must hold one number per channel ({shape[0]}), "
                f"deviations above 0."
            )
        return Preprocessing("standard", shape, mean=mean, std=std)

    def apply(self, images01: Images) -> Images:
        """The images as a network sees them, same shape, device and dtype; a new tensor unless the kind is none."""
        return self._map(images01, forward=True)

    def invert(self, images: Images) -> Images:
        """The images in units of [0, 1] again, not clipped: `invert(apply(x))` is x up to rounding."""
        return self._map(images, forward=False)

    def for_batches(self) -> Preprocessing:
        """The same map with what every batch needs made once: ZCA's whole matrix, which `apply` then multiplies by."""
        if self.kind != "zca" or self.matrix is not None:
            return self
        assert self.eigenvectors is not None
        return replace(
            self, matrix=(self.eigenvectors * self._scale(self.eigenvectors, forward=True)) @ self.eigenvectors.T
        )

    def tensors(self) -> dict[str, Tensor]:
        """The fitted tensors by name, for a file; with `describe` they are all that `restore` needs."""
        return {name: tensor for name in TENSORS[self.kind] if (tensor := getattr(self, name)) is not None}

    @property
    def whole(self) -> bool:
        """Whether it can be applied and inverted: `compact` leaves ZCA's eigenvectors out."""
        return self.kind != "zca" or self.eigenvectors is not None

    def compact(self) -> Preprocessing:
        """The same map, known by its `hash`, without ZCA's D×D matrix (38 MB at 32 px): it can be fitted again on the
        same data."""
        return replace(self, eigenvectors=None, matrix=None) if self.kind == "zca" else self

    def describe(self) -> dict[str, Any]:
        """A JSON-ready dictionary of everything that is not a tensor."""
        return {"kind": self.kind, "shape": list(self.shape), "eps": self.eps, "statistics": self.statistics}

    @staticmethod
    def restore(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Preprocessing:
        """The preprocessing whose `describe()` and `tensors()` these are. Raises InputError when a piece is absent."""
        kind = description.get("kind")
        if kind not in TENSORS or not {"shape", "eps", "statistics"} <= set(description):
            raise InputError(
                f"{dict(description)} does not describe a preprocessing; take it from a file that astdistill wrote."
            )
        absent = [name for name in TENSORS[kind] if name not in tensors and name != "eigenvectors"]
        if absent:
            raise InputError(
                f"The tensor '{absent[0]}' of the {kind} preprocessing is missing; take a whole file that astdistill "
                f"wrote."
            )
        fitted = {name: tensors[name] for name in TENSORS[kind] if name in tensors}
        return Preprocessing(
            kind, triple(description["shape"]), eps=description["eps"], statistics=description["statistics"], **fitted
        )

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that are the same wherever the map was fitted, exactly if it is the same map.

        For ZCA it covers the covariance, which is a sum of integers and has the same bits on every machine, and not its
        eigenvectors, whose last bits change with the linear-algebra library and its number of threads.
        """
        values = {} if self.kind == "zca" else {name: tensor_digest(tensor) for name, tensor in self.tensors().items()}
        return digest([self.describe(), values])

    def to(self, device: str | torch.device) -> Preprocessing:
        """The same map with its tensors on another device."""
        matrix = None if self.matrix is None else self.matrix.to(device)
        return replace(self, matrix=matrix, **{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def _map(self, images: Images, forward: bool) -> Images:
        fits = images.ndim == 4 and all(
            want in (0, got) for want, got in zip(self.shape, images.shape[1:], strict=True)
        )
        if not fits:
            raise InputError(
                f"Images of shape {tuple(images.shape)} were given; this preprocessing takes [N, "
                f"{', '.join(map(str, self.shape))}]."
            )
        if not self.whole:
            raise InputError(
                "This file was written without its ZCA matrix (compact), so its images cannot be shown or new ones "
                "whitened; load the data "
                "that it was made of and call synthetic.completed(dataset.preprocessing)."
            )
        if self.kind == "none":
            return images
        if self.kind == "standard":
            return self._standard(images, forward)
        return self._zca(images, forward)

    def _standard(self, images: Images, forward: bool) -> Images:
        mean, std = (_like(tensor, images).view(1, -1, 1, 1) for tensor in (self.mean, self.std))
        return (images - mean) / std if forward else images * std + mean

    def _zca(self, images: Images, forward: bool) -> Images:
        mean, vectors = _like(self.mean, images), _like(self.eigenvectors, images)
        scale = self._scale(images, forward)
        matrix = self.matrix.to(images.device, images.dtype) if forward and self.matrix is not None else None
        if matrix is None and len(images) >= len(mean):
            matrix = (vectors * scale) @ vectors.T  # one product for many images, two slim ones for few
        out = torch.empty_like(images, memory_format=torch.contiguous_format)
        for start in range(0, len(images), BLOCK):
            block = images[start : start + BLOCK].flatten(1)
            block = block - mean if forward else block
            block = ((block @ vectors) * scale) @ vectors.T if matrix is None else block @ matrix
            out[start : start + BLOCK] = (block if forward else block + mean).view(-1, *self.shape)
        return out

    def _scale(self, images: Tensor, forward: bool) -> Tensor:
        """What each principal component is multiplied by."""
        scale = (_like(self.eigenvalues, images).clamp(min=0) + self.eps).sqrt()
        return 1 / scale if forward else scale


def fit_standard(images01: Rows) -> Preprocessing:
    """Per-channel mean and deviation of the images, `[N, C, H, W]` uint8, or float in [0, 1].

    A channel that never changes keeps deviation 1. uint8 images give the same bits on every machine.
    """
    moments = channel_moments(images01)
    std = moments.std.where(moments.std > 1e-6, torch.ones_like(moments.std))
    return Preprocessing.standard(moments.mean.float(), std.float(), triple(images01.shape[1:]))


def triple(shape: Any) -> tuple[int, int, int]:
    """Channels, height, width as plain numbers."""
    channels, height, width = (int(length) for length in shape)
    return channels, height, width


def _like(tensor: Tensor | None, images: Tensor) -> Tensor:
    assert tensor is not None  # TENSORS names what each kind holds; restore and the constructors fill it
    return tensor.to(images.device, images.dtype)
