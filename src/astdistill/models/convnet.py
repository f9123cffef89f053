"""The ConvNet of the trajectory-matching papers: a few identical blocks, then one linear layer."""

from __future__ import annotations

from torch import nn

from ..errors import InputError
from ..shapes import Batch, Logits
from .layers import ACTIVATIONS, POOLINGS, check_counts, check_groups, check_pixels, check_words, normed

MAX_DEPTH = 8


class ConvNet(nn.Module):
    """`depth` blocks of [3×3 convolution · norm · activation · 2×2 pooling] and one linear layer (Gidaris & Komodakis, arXiv 1804.09458).

    Parameters come in the order and under the names of mtt-distillation's ConvNet (`features.*`, `classifier.*`), with PyTorch's default
    initialisation. `norm="layer"` normalises over channels and pixels with one scale per channel, where that code has one per activation.
    Raises InputError for a shape, a depth or a word that makes no network.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        size: tuple[int, int],
        depth: int = 3,
        width: int = 128,
        norm: str = "instance",
        activation: str = "relu",
        pooling: str = "avg",
    ) -> None:
        super().__init__()
        check_words(norm, activation, pooling)
        check_counts("ConvNet", channels=channels, classes=classes, width=width)
        _check_depth(depth)
        check_groups(norm, width)
        check_pixels(size, norm if pooling == "none" else "none")
        _check_size(size, depth, pooling)
        halvings = 0 if pooling == "none" else depth
        blocks: list[nn.Module] = []
        for block in range(depth):
            blocks.append(nn.Conv2d(width if block else channels, width, kernel_size=3, padding=1))
            blocks += [*normed(norm, width), ACTIVATIONS[activation]()]
            if pooling != "none":
                blocks.append(POOLINGS[pooling]())
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width * (size[0] >> halvings) * (size[1] >> halvings), classes)

    def forward(self, images: Batch) -> Logits:
        """The logits."""
        return self.classifier(self.features(images).flatten(1))


def deepest(size: tuple[int, int], pooling: str = "avg") -> int:
    """The largest depth for images of this height and width: every pooling halves them, and stops at one pixel. 0 if there is none."""
    return MAX_DEPTH if pooling == "none" else min(MAX_DEPTH, min(size).bit_length() - 1)


def _check_depth(depth: int) -> None:
    if not 1 <= depth <= MAX_DEPTH:
        raise InputError(f"A ConvNet has depth 1 to {MAX_DEPTH}, not {depth}; 3 suits 32 px, 4 suits 64 px, 5 suits 128 px.")


def _check_size(size: tuple[int, int], depth: int, pooling: str) -> None:
    height, width = size
    most = deepest(size, pooling)
    if most < 1:
        raise InputError(f"Images of {height}×{width} pixels are too small to pool even once; use pooling='none' (a name with '-nopool').")
    if depth > most:
        raise InputError(
            f"Images of {height}×{width} pixels are too small for depth {depth} with 2×2 pooling; the largest depth for them is {most} "
            f"('convnet-d{most}'), or use pooling='none'."
        )
