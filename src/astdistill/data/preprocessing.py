"""Preprocessing of images in [0, 1] for a network: none, standard (mean and deviation), or whitening (ZCA, or that of
RaT-BPTT). Maps are fitted on exact sums, so that the map of uint8 images does not depend on the machine."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..runtime import progress, status
from ..runtime.config import digest
from ..runtime.errors import InputError
from ..runtime.shapes import Images
from .digests import Rows, tensor_digest

Kind = Literal["none", "standard", "zca", "rat"]
BLOCK = 4096
TENSORS: dict[str, tuple[str, ...]] = {
    "none": (),
    "standard": ("mean", "std"),
    "zca": ("mean", "eigenvalues", "eigenvectors"),
    "rat": ("mean", "eigenvalues", "eigenvectors"),
}
MIXING = {"zca": "ZCA", "rat": "RaT-BPTT's"}
"""The kinds that mix all pixels of an image by a D×D matrix, with the name of the whitening."""


class IncompleteError(InputError):
    """A preprocessing without its ZCA matrix, which cannot be applied or undone."""


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """A fitted map; make one with `none`, `standard`, `fit_standard` or `fit_zca`, compare two by `hash`.

    `mean` and `std` are `[C]` for standard. For ZCA `mean` is `[D]`, and the covariance of the training images is kept
    as its eigenvalues `[D]` and eigenvectors `[D, D]` (columns), D = C·H·W: the one D×D matrix serves both directions.
    RaT-BPTT's whitening (`fit_rat`) stores the eigenvalues and eigenvectors of its second moment, and in `mean` two
    numbers: the averages over images of the mean pixel and of the norm of the image minus its mean pixel.
    """

    kind: Kind
    """none, standard, zca or rat."""
    shape: tuple[int, int, int]
    """Channels, height, width; a 0 fits any length."""
    mean: Tensor | None = None
    """As described above."""
    std: Tensor | None = None
    """`[C]`, above 0, for standard."""
    eigenvalues: Tensor | None = None
    """`[D]`, for whitening."""
    eigenvectors: Tensor | None = None
    """`[D, D]`, columns, for whitening."""
    eps: float = 0.0
    """Added to the eigenvalues."""
    statistics: str = ""
    """Identifies the exact statistics that the map was fitted on; see `hash`."""
    matrix: Tensor | None = None
    """U (Λ + eps)^(−½) Uᵀ `[D, D]`, if `for_batches` has computed it."""

    @staticmethod
    def none(shape: tuple[int, int, int]) -> Preprocessing:
        """The identity.

        Args:
            shape: Channels, height and width of the images.
        """
        return Preprocessing("none", triple(shape))

    @staticmethod
    def standard(
        mean: Tensor | Sequence[float], std: Tensor | Sequence[float], shape: tuple[int, int, int] | None = None
    ) -> Preprocessing:
        """(x − mean) / std per channel.

        Args:
            mean: `[C]`, in units of [0, 1] images.
            std: `[C]`, above 0, in the same units.
            shape: Channels, height and width. None: images of any height and width fit.

        Raises:
            InputError: The numbers are not one for each channel, or a deviation is not positive.
        """
        mean, std = torch.as_tensor(mean, dtype=torch.float32), torch.as_tensor(std, dtype=torch.float32)
        shape = (mean.numel(), 0, 0) if shape is None else triple(shape)
        if mean.shape != (shape[0],) or std.shape != (shape[0],) or not bool((std > 0).all()):
            raise InputError(
                f"Mean {mean.tolist()} and deviation {std.tolist()} must hold one number per channel ({shape[0]}), "
                f"deviations above 0."
            )
        return Preprocessing("standard", shape, mean=mean, std=std)

    def apply(self, images01: Images) -> Images:
        """The preprocessed images, same shape, device and dtype; a new tensor unless the kind is none.

        Args:
            images01: `[N, C, H, W]`, floats in [0, 1].

        Raises:
            InputError: The images are not floats in [0, 1] (0.01 beyond is allowed); the message names the conversion.
        """
        check_unit(images01)
        return self.map_batch(images01)

    def map_batch(self, images01: Images) -> Images:
        """The same as `apply` without checking the range: for batches of images that are known to be in [0, 1].

        Args:
            images01: `[N, C, H, W]`, floats in [0, 1].
        """
        return self._map(images01, forward=True)

    def invert(self, images: Images) -> Images:
        """The inverse of `apply`: images in units of [0, 1], not clipped.

        `invert(apply(x))` is x up to rounding. RaT-BPTT's whitening loses brightness and contrast; its inverse has
        those of the mean training image.

        Args:
            images: `[N, C, H, W]`, preprocessed.
        """
        return self._map(images, forward=False)

    @torch.no_grad()
    def clip_(self, images: Images) -> None:
        """Clip the pixels of preprocessed images to [0, 1], in place.

        Without whitening, pixels within the range keep their exact bits; whitened images are inverted, clipped and
        whitened again.

        Args:
            images: `[N, C, H, W]`, preprocessed.
        """
        if self.mixes:
            images.copy_(self._apply_matrix(self.invert(images).clamp(0, 1), True, self._remove_level))
            return
        bounds = torch.tensor([0.0, 1.0], device=images.device, dtype=images.dtype).view(2, 1, 1, 1)
        bounds = bounds.expand(2, images.shape[1], 1, 1)
        if self.kind == "standard":
            bounds = self._map_standard(bounds, forward=True)
        low, high = bounds
        torch.maximum(torch.minimum(images, high), low, out=images)

    def for_batches(self) -> Preprocessing:
        """The same map with the whitening matrix computed once, for `apply` to multiply each batch by."""
        if not self.mixes or self.matrix is not None:
            return self
        assert self.eigenvectors is not None
        return replace(
            self,
            matrix=(self.eigenvectors * self._component_scales(self.eigenvectors, forward=True)) @ self.eigenvectors.T,
        )

    def tensors(self) -> dict[str, Tensor]:
        """The fitted tensors by name, for a file; with `describe` they are all that `restore` needs."""
        return {name: tensor for name in TENSORS[self.kind] if (tensor := getattr(self, name)) is not None}

    @property
    def is_complete(self) -> bool:
        """Whether it can be applied and inverted: `compact` leaves ZCA's eigenvectors out."""
        return not self.mixes or self.eigenvectors is not None

    @property
    def mixes(self) -> bool:
        """Whether each pixel depends on its whole image."""
        return self.kind in MIXING

    def compact(self) -> Preprocessing:
        """The same map, identified by its `hash`, without ZCA's D×D matrix (38 MB at 32 px): it can be fitted again on
        the same data."""
        return replace(self, eigenvectors=None, matrix=None) if self.mixes else self

    def describe(self) -> dict[str, Any]:
        """A JSON-ready dictionary of everything that is not a tensor."""
        return {"kind": self.kind, "shape": list(self.shape), "eps": self.eps, "statistics": self.statistics}

    @staticmethod
    def restore(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Preprocessing:
        """The preprocessing stored in a file. Raises InputError if a part is missing.

        Args:
            description: The result of `describe`.
            tensors: The result of `tensors`; other names are ignored.
        """
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
        """Twelve hexadecimal digits, equal on all machines exactly if the map is the same.

        For ZCA it covers the covariance, which is a sum of integers and has the same bits on every machine, not its
        eigenvectors, whose last bits change with the linear-algebra library and its number of threads; for RaT-BPTT's
        whitening the bytes of the training images.
        """
        values = {} if self.mixes else {name: tensor_digest(tensor) for name, tensor in self.tensors().items()}
        return digest([self.describe(), values])

    def to(self, device: str | torch.device) -> Preprocessing:
        """The same map with its tensors on another device.

        Args:
            device: As torch names it.
        """
        matrix = None if self.matrix is None else self.matrix.to(device)
        return replace(self, matrix=matrix, **{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def _map(self, images: Images, forward: bool) -> Images:
        fits = images.ndim == 4 and all(
            expected in (0, length) for expected, length in zip(self.shape, images.shape[1:], strict=True)
        )
        if not fits:
            raise InputError(
                f"Images of shape {tuple(images.shape)} were given; this preprocessing takes [N, "
                f"{', '.join(map(str, self.shape))}]."
            )
        if not self.is_complete:
            raise IncompleteError(
                "This set was stored without its ZCA matrix (compact), so its images cannot be shown or new ones "
                "whitened; with the data that it was made of, call synthetic.completed(dataset.preprocessing)."
            )
        if self.kind == "none":
            return images
        if self.kind == "standard":
            return self._map_standard(images, forward)
        if forward:
            return self._apply_matrix(images, True, self._centre)
        return self._apply_matrix(images, False, lambda block: block)

    def _map_standard(self, images: Images, forward: bool) -> Images:
        mean, std = (_cast_like(tensor, images).view(1, -1, 1, 1) for tensor in (self.mean, self.std))
        return (images - mean) / std if forward else images * std + mean

    def _centre(self, block: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """Flattened images as multiplied by the matrix: minus the mean image (ZCA), or each minus its own mean pixel
        and divided by its norm (RaT-BPTT)."""
        if self.kind == "zca":
            return block - _cast_like(self.mean, block)
        block = block - block.mean(dim=1, keepdim=True)
        return block / block.norm(dim=1, keepdim=True).clamp_min(DARK)

    def _remove_level(self, block: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """The inverse of `_restore_level`."""
        if self.kind == "zca":
            return self._centre(block)
        mean, norm = _cast_like(self.mean, block)
        return (block - mean) / norm

    def _restore_level(self, block: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """Flattened images after the inverse of the matrix: plus the mean image (ZCA), or with the contrast and
        brightness of the mean training image (RaT-BPTT)."""
        if self.kind == "zca":
            return block + _cast_like(self.mean, block)
        mean, norm = _cast_like(self.mean, block)
        return block * norm + mean

    def _apply_matrix(self, images: Images, forward: bool, prepare: Callable[[Tensor], Tensor]) -> Images:
        """Multiply all images by the matrix or its inverse, in blocks; `prepare` maps each flattened block first."""
        vectors, scale = _cast_like(self.eigenvectors, images), self._component_scales(images, forward)
        matrix = self.matrix.to(images.device, images.dtype) if forward and self.matrix is not None else None
        if matrix is None and len(images) >= len(vectors):
            matrix = (vectors * scale) @ vectors.T  # one product for many images, two thin ones for few
        out = torch.empty_like(images, memory_format=torch.contiguous_format)
        for start in range(0, len(images), BLOCK):
            block = prepare(images[start : start + BLOCK].flatten(1))
            block = ((block @ vectors) * scale) @ vectors.T if matrix is None else block @ matrix
            out[start : start + BLOCK] = (block if forward else self._restore_level(block)).view(-1, *self.shape)
        return out

    def _component_scales(self, images: Tensor, forward: bool) -> Tensor:
        """The factor of each principal component."""
        values = _cast_like(self.eigenvalues, images).clamp(min=0)
        regulariser = self.eps * {"zca": 1.0, "rat": values.mean()}[self.kind]
        scale = (values + regulariser).sqrt()
        return 1 / scale if forward else scale


TOLERANCE = 0.01
"""How far outside [0, 1] pixels may lie: resizing with a sharp filter overshoots."""


def check_unit(images01: Tensor) -> None:
    """Raise InputError unless the images are floats in [0, 1]; the message names the conversion."""
    if not images01.numel():
        return
    values = images01.detach()
    if not values.is_floating_point():
        values = values.float()  # aminmax does not support bool
    low, high = (float(bound) for bound in values.aminmax())
    if images01.is_floating_point() and low >= -TOLERANCE and high <= 1 + TOLERANCE:
        return
    description = f"The images reach from {low:g} to {high:g}"
    if not images01.is_floating_point():
        description = f"The images are {images01.dtype} from {low:g} to {high:g}"
    remedy = unit_formula(low, high) or "undo their normalisation first"
    raise InputError(f"{description}; give floats in [0, 1], not whitened: {remedy}.")


def unit_formula(low: float, high: float) -> str:
    """The expression that maps `images` of this range to [0, 1]; empty if it cannot be inferred."""
    if low >= 0 and high <= 255:
        return "images / 255"
    if low >= 0 and high <= 65535:
        return "images / 65535"
    if low >= -1 - TOLERANCE and high <= 1 + TOLERANCE:
        return "(images + 1) / 2"
    return ""


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


def _cast_like(tensor: Tensor | None, images: Tensor) -> Tensor:
    assert tensor is not None  # TENSORS lists what each kind holds; restore and the constructors set it
    return tensor.to(images.device, images.dtype)


DARK = 1e-12
"""Lower bound of the norm of an image, so that an image of a single shade becomes 0."""
LARGEST_ZCA = 64 * 64 * 3
"""Above this many values per image the D×D matrix passes 1.2 GB and its eigenvectors take hours."""
TOLD = 32 * 32 * 3
"""From this many values per image on, the estimated cost is printed before fitting."""
TRIED = 512
"""Side of the matrix that is timed; the trial takes at most half a second."""


@dataclass(frozen=True)
class Cost:
    """Seconds, and bytes of memory at the peak."""

    seconds: float
    memory: int


def fit_zca(images01: Rows, eps: float = 0.1) -> Preprocessing:
    """ZCA whitening fitted on the images, `[N, C, H, W]` uint8, or float in [0, 1]; equal to kornia's
    `ZCAWhitening(eps=0.1)`.

    x ↦ U (Λ + eps)^(−½) Uᵀ (x − μ) with U Λ Uᵀ the covariance over N − 1. The images are read in blocks. From 3,072
    values per image on, the estimated cost is printed first. Raises InputError for fewer than two images, and above 64
    px in colour, where the matrix no longer fits.
    """
    count, shape = images01.shape[0], triple(images01.shape[1:])
    _print_cost(count, shape, "ZCA")
    moments = covariance(images01)
    values, vectors = torch.linalg.eigh(moments.covariance)
    return Preprocessing(
        "zca",
        shape,
        mean=moments.mean.float(),
        eigenvalues=values.float(),
        eigenvectors=vectors.float().contiguous(),
        eps=float(eps),
        statistics=moments.digest,
    )


def fit_rat(images01: Rows, statistics: str = "", eps: float = 0.1) -> Preprocessing:
    """RaT-BPTT's whitening, fitted on the images, `[N, C, H, W]` uint8, or float in [0, 1] (arXiv 2311.07025, its
    released code).

    Each image x becomes y = (x − x̄)/‖x − x̄‖ with x̄ the mean of all its pixels, and then V (E + eps · mean E)^(−½) Vᵀ
    y, V E Vᵀ = Σ y yᵀ / N. The norm of an image is lost, so that `invert` gives all images the same contrast. Raises
    InputError as `fit_zca` does.

    Args:
        images01: The training images.
        statistics: A digest of the images, which distinguishes such maps. Empty: computed here.
        eps: The share of the mean eigenvalue that is added to all eigenvalues.
    """
    count, shape = images01.shape[0], triple(images01.shape[1:])
    _print_cost(count, shape, MIXING["rat"])
    size, unit = math.prod(shape), _full_scale(images01)
    products, totals = torch.zeros(size, size, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for block in _float64_blocks(images01):
        rows = block.flatten(1) / unit
        means = rows.mean(dim=1, keepdim=True)
        rows = rows - means
        norms = rows.norm(dim=1, keepdim=True)
        totals += torch.stack([means.sum(), norms.sum()])
        rows = rows / norms.clamp_min(DARK)
        products += rows.T @ rows
    values, vectors = torch.linalg.eigh(products / count)
    return Preprocessing(
        "rat",
        shape,
        mean=(totals / count).float(),
        eigenvalues=values.float(),
        eigenvectors=vectors.float().contiguous(),
        eps=float(eps),
        statistics=(statistics or tensor_digest(torch.as_tensor(images01)))[:12],
    )


def _print_cost(count: int, shape: tuple[int, int, int], name: str) -> None:
    """Print the estimated cost of fitting a large D×D matrix. Raises InputError for too few images or too many
    pixels."""
    size = math.prod(shape)
    if count < 2:
        raise InputError(
            f"{name} whitening was asked for {count} training image(s); it needs at least 2, so use --data.whiten "
            f"standard."
        )
    if size > LARGEST_ZCA:
        raise InputError(
            f"{name} whitening of {shape} images needs a {size}×{size} matrix; use --data.whiten standard, or "
            "--data.size 64 or less."
        )
    if size >= TOLD and not progress.Output.quiet:
        cost = zca_cost(count, size)
        progress.console().print(
            f"Fitting {name}: {count:,} images of {size:,} values, a matrix of {size:,}×{size:,}; about "
            f"{status.duration(cost.seconds)}, {status.size(cost.memory)} of memory.",
            highlight=False,
        )


def zca_cost(count: int, size: int) -> Cost:
    """The estimated cost of `fit_zca` for `count` uint8 images of `size` values, from timing the same operations on a
    512×512 matrix.

    Products grow with D², the eigenvectors with D³. Memory: the covariance, the copy that becomes its eigenvectors and
    LAPACK's workspace of two more (syevd) in float64, and the other live tensors: 5.25 D² values were measured at D =
    2,028; 5.5 D² are assumed.
    """
    side = min(size, TRIED)
    block = torch.linspace(-1, 1, EXACT_ROWS * side).square().sin().view(EXACT_ROWS, side)
    products = torch.eye(side, dtype=torch.float64)

    def multiply() -> object:
        return products.add_(block.T @ block)

    growth = size / side
    multiply_seconds, eigh_seconds = _measure_seconds(multiply), _measure_seconds(lambda: torch.linalg.eigh(products))
    seconds = math.ceil(count / EXACT_ROWS) * multiply_seconds * growth**2 + eigh_seconds * growth**3
    return Cost(seconds, 44 * size**2 + 4 * min(count, EXACT_ROWS) * size)


def _measure_seconds(operation: Callable[[], object]) -> float:
    """CPU seconds of this thread in the faster of two runs after a warm-up: the duration without other load."""
    durations = []
    for _ in range(3):
        start = time.thread_time()
        operation()
        durations.append(time.thread_time() - start)
    return min(durations[1:])


MIDDLE = 128
EXACT_ROWS = 1024
"""128² × 1024 = 2²⁴: a float32 product of this many rows of uint8 − 128 is exact in any order of summation."""
SUMMED = 1 << 22
"""Values that are summed at once: 1,024 images at 32 px, fewer of larger ones. Sums of bytes are exact for any block
size."""


@dataclass(frozen=True)
class ChannelMoments:
    """Mean and (population) standard deviation per channel, `[C]` float64, in units of [0, 1] images."""

    mean: Float[Tensor, " C"]
    std: Float[Tensor, " C"]


@dataclass(frozen=True)
class Covariance:
    """Mean `[D]` and covariance over N − 1 `[D, D]`, float64, with a digest of both."""

    mean: Float[Tensor, " D"]
    covariance: Float[Tensor, "D D"]
    digest: str


def channel_moments(images: Rows) -> ChannelMoments:
    """The moments of every channel over all images and positions, in one pass over blocks."""
    channels = images.shape[1]
    total = torch.zeros(channels, dtype=torch.float64)
    squares = torch.zeros(channels, dtype=torch.float64)
    for block in _float64_blocks(images):
        total += block.sum(dim=(0, 2, 3))
        squares += block.square().sum(dim=(0, 2, 3))
    count = math.prod(images.shape) / channels
    unit = _full_scale(images)
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=0)
    return ChannelMoments(mean / unit, variance.sqrt() / unit)


def covariance(images: Rows) -> Covariance:
    """Mean and covariance of the flattened images; memory: a few D×D matrices and one block, never N×D in float.

    128 is subtracted from uint8 pixels first, which does not change the covariance and allows four times as many rows
    to be summed exactly.
    """
    count, size, unit = images.shape[0], math.prod(images.shape[1:]), _full_scale(images)
    is_bytes = images.dtype == torch.uint8
    offset = MIDDLE if is_bytes else 0
    total = torch.zeros(size, dtype=torch.float64)
    products = torch.zeros(size, size, dtype=torch.float64)
    for start in range(0, count, EXACT_ROWS):
        block = (
            images[start : start + EXACT_ROWS]
            .detach()
            .to("cpu")
            .flatten(1)
            .to(torch.float32 if is_bytes else torch.float64)
            - offset
        )
        total += block.sum(dim=0, dtype=torch.float64)
        products += block.T @ block
    mean = total / count
    for rows in range(0, size, EXACT_ROWS):  # in place: another D×D matrix would be the largest thing in memory
        products[rows : rows + EXACT_ROWS].sub_(torch.outer(total[rows : rows + EXACT_ROWS], mean))
    products.div_((count - 1) * unit**2)
    mean = (mean + offset) / unit
    return Covariance(
        mean, products, hashlib.sha256((tensor_digest(mean) + tensor_digest(products)).encode()).hexdigest()[:12]
    )


def _float64_blocks(images: Rows) -> Iterator[Float[Tensor, "B C H W"]]:
    rows = max(1, min(EXACT_ROWS, SUMMED // math.prod(images.shape[1:])))
    for start in range(0, images.shape[0], rows):
        yield images[start : start + rows].detach().to("cpu", torch.float64)


def _full_scale(images: Rows) -> float:
    """The pixel value that represents 1: 255 for uint8."""
    return 255.0 if images.dtype == torch.uint8 else 1.0
