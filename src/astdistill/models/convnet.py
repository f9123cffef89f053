"""The ConvNet of the trajectory-matching papers: a few identical blocks, then one linear layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..errors import InputError, unknown
from ..shapes import Batch, Logits

MAX_DEPTH = 8

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "leakyrelu": lambda: nn.LeakyReLU(0.01),
}
POOLINGS: dict[str, Callable[[], nn.Module]] = {
    "avg": lambda: nn.AvgPool2d(2),
    "max": lambda: nn.MaxPool2d(2),
    "none": nn.Identity,
}


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm`, to rounding, in a form that also has forward-mode derivatives in channels-last memory.

    The group-norm kernel runs where it is the faster (eager, contiguous). Its forward-mode rule refuses channels-last tensors and compiled
    it fuses worse, so there the same formula is written as one multiply and one add around `torch.var_mean`.
    Milliseconds for the depth-3, width-128 ConvNet with one group per channel (batch 50, 32 px, one CPU thread, torch 2.13, best of 2 eager
    or 4 compiled calls), as gradient / jvp of gradient. Eager contiguous: kernel 143 / 693, formula 223 / 677; eager channels-last:
    159 / raises, 214 / 667; compiled contiguous: 167 / 483, 108 / 474; compiled channels-last: 135 / raises, 109 / 368.
    """

    def forward(self, input: Batch) -> Batch:
        """The normalised images, of the same shape."""
        if input.is_contiguous() and not torch.compiler.is_compiling():
            return super().forward(input)
        images = input.unflatten(1, (self.num_groups, -1))
        weight, bias = (part.view(self.num_groups, -1, 1, 1) for part in (self.weight, self.bias))
        variance, mean = torch.var_mean(images, dim=(2, 3, 4), correction=0, keepdim=True)
        scale = torch.rsqrt(variance + self.eps) * weight
        return (images * scale + (bias - mean * scale)).flatten(1, 2)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "instance": lambda channels: GroupNorm(channels, channels),
    "batch": nn.BatchNorm2d,
    "layer": lambda channels: GroupNorm(1, channels),
    "group": lambda channels: GroupNorm(4, channels),
    "none": lambda channels: nn.Identity(),
}


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
        _check_words(norm, activation, pooling)
        _check_numbers(channels, classes, depth, width, norm)
        _check_size(size, depth, norm, pooling)
        halvings = 0 if pooling == "none" else depth
        blocks: list[nn.Module] = []
        for block in range(depth):
            blocks.append(nn.Conv2d(width if block else channels, width, kernel_size=3, padding=1))
            if norm != "none":
                blocks.append(NORMS[norm](width))
            blocks.append(ACTIVATIONS[activation]())
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


def _check_words(norm: str, activation: str, pooling: str) -> None:
    for kind, word, table in (("norm", norm, NORMS), ("activation", activation, ACTIVATIONS), ("pooling", pooling, POOLINGS)):
        if word not in table:
            raise unknown(kind, word, table)


def _check_numbers(channels: int, classes: int, depth: int, width: int, norm: str) -> None:
    for what, number in (("channels", channels), ("classes", classes), ("width", width)):
        if number < 1:
            raise InputError(f"A ConvNet with {what}={number} is empty; give at least 1.")
    if not 1 <= depth <= MAX_DEPTH:
        raise InputError(f"A ConvNet has depth 1 to {MAX_DEPTH}, not {depth}; 3 suits 32 px, 4 suits 64 px, 5 suits 128 px.")
    if norm == "group" and width % 4:
        raise InputError(f"Group norm makes 4 groups, and width {width} is not a multiple of 4; try width {width + 4 - width % 4}.")


def _check_size(size: tuple[int, int], depth: int, norm: str, pooling: str) -> None:
    height, width = size
    if min(size) < 1:
        raise InputError(f"Images of {height}×{width} pixels have no pixels; give the height and width of the images.")
    most = deepest(size, pooling)
    if most < 1:
        raise InputError(f"Images of {height}×{width} pixels are too small to pool even once; use pooling='none' (a name with '-nopool').")
    if depth > most:
        raise InputError(
            f"Images of {height}×{width} pixels are too small for depth {depth} with 2×2 pooling; the largest depth for them is {most} "
            f"('convnet-d{most}'), or use pooling='none'."
        )
    if norm == "instance" and height * width == 1:
        raise InputError("Instance norm over a single pixel erases it, and these images are 1×1; use norm='layer' or 'none'.")
