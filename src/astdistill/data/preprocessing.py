"""The map from [0, 1] images to what a network sees: none, standard (mean and deviation), or whitening (ZCA, or that of
RaT-BPTT); fitted on exact sums, so that the map of uint8 images does not depend on the machine."""

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
"""The kinds that tie each pixel to its whole image, by a D×D matrix, and whose whitening they are."""


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """A fitted map; make one with `none`, `standard`, `fit_standard` or `fit_zca`, compare two by `hash`.

    `mean` and `std` are `[C]` for standard. For ZCA `mean` is `[D]`, and the covariance of the training images is kept
    as its eigenvalues `[D]` and eigenvectors `[D, D]` (columns), D = C·H·W: the one D×D matrix serves both directions.
    RaT-BPTT's whitening (`fit_rat`) keeps those of its second moment, and in `mean` two numbers, the means over images
    of their mean pixel and of the norm of what is left without it.
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
    """Names the exact statistics a ZCA was fitted on; see `hash`."""
    matrix: Tensor | None = None
    """U (Λ + eps)^(−½) Uᵀ `[D, D]`, where `for_batches` has made it."""

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
        """The images as a network sees them, same shape, device and dtype; a new tensor unless the kind is none.

        Args:
            images01: `[N, C, H, W]`, floats in [0, 1].

        Raises:
            InputError: It names the factor that helps, for images that are not floats in [0, 1] (a hundredth more is
                let pass).
        """
        check_unit(images01)
        return self.map_batch(images01)

    def map_batch(self, images01: Images) -> Images:
        """What `apply` gives, without looking at the range: for batches of images that are known to be in [0, 1].

        Args:
            images01: `[N, C, H, W]`, floats in [0, 1].
        """
        return self._map(images01, forward=True)

    def invert(self, images: Images) -> Images:
        """The images in units of [0, 1] again, not clipped: `invert(apply(x))` is x up to rounding, and for RaT-BPTT's
        whitening, which forgets them, up to brightness and contrast: those are of the mean training image.

        Args:
            images: `[N, C, H, W]`, as a network sees them.
        """
        return self._map(images, forward=False)

    @torch.no_grad()
    def clip_(self, images: Images) -> None:
        """Cut pixels to [0, 1] in place, of images as a network sees them.

        Of single pixels the others stay to the bit; whitening is undone for it and done again.

        Args:
            images: `[N, C, H, W]`, as a network sees them.
        """
        if self.mixes:
            images.copy_(self._whitened(self.invert(images).clamp(0, 1), True, self._as_shown))
            return
        ends = torch.tensor([0.0, 1.0], device=images.device, dtype=images.dtype).view(2, 1, 1, 1)
        ends = ends.expand(2, images.shape[1], 1, 1)
        if self.kind == "standard":
            ends = self._standard(ends, forward=True)
        low, high = ends
        torch.maximum(torch.minimum(images, high), low, out=images)

    def for_batches(self) -> Preprocessing:
        """The same map with what every batch needs made once: ZCA's whole matrix, which `apply` then multiplies by."""
        if not self.mixes or self.matrix is not None:
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
        return not self.mixes or self.eigenvectors is not None

    @property
    def mixes(self) -> bool:
        """Whether each pixel depends on its whole image."""
        return self.kind in MIXING

    def compact(self) -> Preprocessing:
        """The same map, known by its `hash`, without ZCA's D×D matrix (38 MB at 32 px): it can be fitted again on the
        same data."""
        return replace(self, eigenvectors=None, matrix=None) if self.mixes else self

    def describe(self) -> dict[str, Any]:
        """A JSON-ready dictionary of everything that is not a tensor."""
        return {"kind": self.kind, "shape": list(self.shape), "eps": self.eps, "statistics": self.statistics}

    @staticmethod
    def restore(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Preprocessing:
        """The preprocessing that a file describes. Raises InputError when a piece is absent.

        Args:
            description: What `describe` gave.
            tensors: What `tensors` gave; others are passed over.
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
        """Twelve hexadecimal digits that are the same wherever the map was fitted, exactly if it is the same map.

        For ZCA it covers the covariance, which is a sum of integers and has the same bits on every machine, and not its
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
            want in (0, got) for want, got in zip(self.shape, images.shape[1:], strict=True)
        )
        if not fits:
            raise InputError(
                f"Images of shape {tuple(images.shape)} were given; this preprocessing takes [N, "
                f"{', '.join(map(str, self.shape))}]."
            )
        if not self.whole:
            raise InputError(
                "This set was stored without its ZCA matrix (compact), so its images cannot be shown or new ones "
                "whitened; with the data that it was made of, call synthetic.completed(dataset.preprocessing), or add "
                "--data to astdistill export."
            )
        if self.kind == "none":
            return images
        if self.kind == "standard":
            return self._standard(images, forward)
        if forward:
            return self._whitened(images, True, self._centred)
        return self._whitened(images, False, lambda block: block)

    def _standard(self, images: Images, forward: bool) -> Images:
        mean, std = (_like(tensor, images).view(1, -1, 1, 1) for tensor in (self.mean, self.std))
        return (images - mean) / std if forward else images * std + mean

    def _centred(self, block: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """Flattened images before the matrix: less the mean image, or each less its own mean and over its norm."""
        if self.kind == "zca":
            return block - _like(self.mean, block)
        block = block - block.mean(dim=1, keepdim=True)
        return block / block.norm(dim=1, keepdim=True).clamp_min(DARK)

    def _as_shown(self, block: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """The inverse of what `invert` does behind the matrix."""
        if self.kind == "zca":
            return self._centred(block)
        mean, norm = _like(self.mean, block)
        return (block - mean) / norm

    def _shown(self, block: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """Flattened images behind the inverse of the matrix: with the mean image, or in the contrast and brightness of
        the mean training image."""
        if self.kind == "zca":
            return block + _like(self.mean, block)
        mean, norm = _like(self.mean, block)
        return block * norm + mean

    def _whitened(self, images: Images, forward: bool, before: Callable[[Tensor], Tensor]) -> Images:
        """All images through the matrix or its inverse, in blocks."""
        vectors, scale = _like(self.eigenvectors, images), self._scale(images, forward)
        matrix = self.matrix.to(images.device, images.dtype) if forward and self.matrix is not None else None
        if matrix is None and len(images) >= len(vectors):
            matrix = (vectors * scale) @ vectors.T  # one product for many images, two slim ones for few
        out = torch.empty_like(images, memory_format=torch.contiguous_format)
        for start in range(0, len(images), BLOCK):
            block = before(images[start : start + BLOCK].flatten(1))
            block = ((block @ vectors) * scale) @ vectors.T if matrix is None else block @ matrix
            out[start : start + BLOCK] = (block if forward else self._shown(block)).view(-1, *self.shape)
        return out

    def _scale(self, images: Tensor, forward: bool) -> Tensor:
        """What each principal component is multiplied by."""
        values = _like(self.eigenvalues, images).clamp(min=0)
        added = self.eps * {"zca": 1.0, "rat": values.mean()}[self.kind]
        scale = (values + added).sqrt()
        return 1 / scale if forward else scale


BEYOND = 0.01
"""So far outside [0, 1] pictures may reach: resizing with a sharp filter overshoots."""


def check_unit(images01: Tensor) -> None:
    """Raise InputError unless the images are floats in [0, 1], saying what would bring them there."""
    if not images01.numel():
        return
    values = images01.detach()
    if not values.is_floating_point():
        values = values.float()  # flags have no extremes
    low, high = (float(end) for end in values.aminmax())
    if images01.is_floating_point() and low >= -BEYOND and high <= 1 + BEYOND:
        return
    given = f"The images reach from {low:g} to {high:g}"
    if not images01.is_floating_point():
        given = f"The images are {images01.dtype} from {low:g} to {high:g}"
    remedy = unit_formula(low, high) or "undo their normalisation first"
    raise InputError(f"{given}; give floats in [0, 1], not whitened: {remedy}.")


def unit_formula(low: float, high: float) -> str:
    """What brings `images` of that range into [0, 1]; empty where it cannot be told."""
    if low >= 0 and high <= 255:
        return "images / 255"
    if low >= 0 and high <= 65535:
        return "images / 65535"
    if low >= -1 - BEYOND and high <= 1 + BEYOND:
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


def _like(tensor: Tensor | None, images: Tensor) -> Tensor:
    assert tensor is not None  # TENSORS names what each kind holds; restore and the constructors fill it
    return tensor.to(images.device, images.dtype)


DARK = 1e-12
"""What the norm of an image counts as at least: one of a single shade becomes 0."""
LARGEST_ZCA = 64 * 64 * 3
"""Above this many values per image the D×D matrix passes 1.2 GB and its eigenvectors take hours."""
TOLD = 32 * 32 * 3
"""From so many values per image on, the cost is said before it is spent."""
TRIED = 512
"""The side of the matrix that is timed: half a second for the trial at most."""


@dataclass(frozen=True)
class Cost:
    """Seconds, and bytes of memory at the peak."""

    seconds: float
    memory: int


def fit_zca(images01: Rows, eps: float = 0.1) -> Preprocessing:
    """ZCA whitening fitted on the images, `[N, C, H, W]` uint8, or float in [0, 1]; equal to kornia's
    `ZCAWhitening(eps=0.1)`.

    x ↦ U (Λ + eps)^(−½) Uᵀ (x − μ) with U Λ Uᵀ the covariance over N − 1. The images are read in blocks. From 3,072
    values per image on, a line says first what it will take. Raises InputError for fewer than two images, and above 64
    px in colour, where the matrix no longer fits.
    """
    count, shape = images01.shape[0], triple(images01.shape[1:])
    _tell_cost(count, shape, "ZCA")
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

    Each image x becomes y = (x − x̄)/‖x − x̄‖ with x̄ the mean of all its pixels, and then V (E + eps · mean E)^(−½) Vᵀ y,
    V E Vᵀ = Σ y yᵀ / N. The norm of an image is lost, so that `invert` gives all the same contrast. Raises InputError
    as `fit_zca` does.

    Args:
        images01: The training images.
        statistics: A digest of them, which tells such maps apart. Empty: it is taken here.
        eps: The share of the mean eigenvalue that is added to all.
    """
    count, shape = images01.shape[0], triple(images01.shape[1:])
    _tell_cost(count, shape, MIXING["rat"])
    size, unit = math.prod(shape), _unit(images01)
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


def _tell_cost(count: int, shape: tuple[int, int, int], name: str) -> None:
    """Say what the fit of a D×D matrix will take, where it takes long. Raises InputError where there are too few images
    or too many pixels."""
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
    """What `fit_zca` takes for `count` uint8 images of `size` values, from the same operations on a matrix of 512×512,
    timed just now.

    Products grow with D², the eigenvectors with D³. Memory: the covariance, the copy that becomes its eigenvectors and
    LAPACK's workspace of two more (syevd) in float64, with what else is alive then: 5.25 D² of them were seen at D =
    2,028, and 5.5 are counted.
    """
    tried = min(size, TRIED)
    block = torch.linspace(-1, 1, EXACT_ROWS * tried).square().sin().view(EXACT_ROWS, tried)
    products = torch.eye(tried, dtype=torch.float64)

    def multiply() -> object:
        return products.add_(block.T @ block)

    growth = size / tried
    multiplied, solved = _timed(multiply), _timed(lambda: torch.linalg.eigh(products))
    seconds = math.ceil(count / EXACT_ROWS) * multiplied * growth**2 + solved * growth**3
    return Cost(seconds, 44 * size**2 + 4 * min(count, EXACT_ROWS) * size)


def _timed(operation: Callable[[], object]) -> float:
    """Seconds for which this thread computed in the faster of two runs after a warm-up: what it takes beside no other
    work."""
    taken = []
    for _ in range(3):
        began = time.thread_time()
        operation()
        taken.append(time.thread_time() - began)
    return min(taken[1:])


MIDDLE = 128
EXACT_ROWS = 1024
"""128² × 1024 = 2²⁴: a float32 product of so many rows of uint8 − 128 is exact in whatever order it is summed."""
SUMMED = 1 << 22
"""Values that are summed at once: 1,024 images at 32 px, fewer of larger ones. Sums of bytes are exact whatever the
blocks."""


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
    unit = _unit(images)
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=0)
    return ChannelMoments(mean / unit, variance.sqrt() / unit)


def covariance(images: Rows) -> Covariance:
    """Mean and covariance of the flattened images; memory: a few D×D matrices and one block, never N×D in float.

    uint8 pixels are moved by 128 towards 0 first, which changes no covariance and lets four times as many rows be
    summed exactly.
    """
    count, size, unit = images.shape[0], math.prod(images.shape[1:]), _unit(images)
    whole = images.dtype == torch.uint8
    middle = MIDDLE if whole else 0
    total = torch.zeros(size, dtype=torch.float64)
    products = torch.zeros(size, size, dtype=torch.float64)
    for start in range(0, count, EXACT_ROWS):
        block = (
            images[start : start + EXACT_ROWS]
            .detach()
            .to("cpu")
            .flatten(1)
            .to(torch.float32 if whole else torch.float64)
            - middle
        )
        total += block.sum(dim=0, dtype=torch.float64)
        products += block.T @ block
    mean = total / count
    for rows in range(0, size, EXACT_ROWS):  # in place: another D×D matrix would be the largest thing in memory
        products[rows : rows + EXACT_ROWS].sub_(torch.outer(total[rows : rows + EXACT_ROWS], mean))
    products.div_((count - 1) * unit**2)
    mean = (mean + middle) / unit
    return Covariance(
        mean, products, hashlib.sha256((tensor_digest(mean) + tensor_digest(products)).encode()).hexdigest()[:12]
    )


def _float64_blocks(images: Rows) -> Iterator[Float[Tensor, "B C H W"]]:
    rows = max(1, min(EXACT_ROWS, SUMMED // math.prod(images.shape[1:])))
    for start in range(0, images.shape[0], rows):
        yield images[start : start + rows].detach().to("cpu", torch.float64)


def _unit(images: Rows) -> float:
    """The value that stands for 1: uint8 pixels count to 255."""
    return 255.0 if images.dtype == torch.uint8 else 1.0
