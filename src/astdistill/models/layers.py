"""Building blocks of networks: norms, activations, poolings, and a trunk of convolutions for any image size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from ..runtime.errors import InputError, unknown
from ..runtime.shapes import Batch

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

    The group-norm kernel runs where it is faster (eager, contiguous). Its forward-mode rule does not support
    channels-last tensors, and it fuses worse when compiled, so there the same formula is written as one multiply and
    one add around `torch.var_mean`. Milliseconds for the depth-3, width-128 ConvNet with one group per channel (batch
    50, 32 px, one CPU thread, torch 2.13, best of 2 eager or 4 compiled calls), as gradient / jvp of gradient. Eager
    contiguous: kernel 143 / 693, formula 223 / 677; eager channels-last: 159 / raises, 214 / 667; compiled contiguous:
    167 / 483, 108 / 474; compiled channels-last: 135 / raises, 109 / 368.
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
POOL = (0, 0)
"""The entry of the plan of a trunk that denotes a 2×2 pooling."""


def trunk(
    channels: int, size: tuple[int, int], plan: Sequence[tuple[int, int]], norm: str, activation: str, pooling: str
) -> tuple[nn.Sequential, int]:
    """Convolutions that keep the size, each with norm and activation, and poolings between them; and the number of
    output channels.

    `plan` lists (width, kernel size) of the convolutions, and `POOL`. A pooling is omitted if it would leave a
    single row or column to another convolution, or nothing at the end, so that every image size works.
    """
    layers: list[nn.Module] = []
    shortest = min(size)
    for index, (width, kernel) in enumerate(plan):
        if (width, kernel) != POOL:
            layers += [
                nn.Conv2d(channels, width, kernel, padding=kernel // 2),
                *normed(norm, width),
                ACTIVATIONS[activation](),
            ]
            channels = width
        elif pooling != "none" and shortest // 2 >= (1 if index == len(plan) - 1 else 2):
            layers.append(POOLINGS[pooling]())
            shortest //= 2
    return nn.Sequential(*layers), channels


def normed(norm: str, width: int) -> list[nn.Module]:
    """The norm over `width` channels as a list, empty for none."""
    if norm == "none":
        return []
    return [NORMS[norm](width)]


def check_layer_names(norm: str = "none", activation: str = "relu", pooling: str = "none") -> None:
    """Raise InputError for an unknown norm, activation or pooling."""
    for kind, word, table in (
        ("norm", norm, NORMS),
        ("activation", activation, ACTIVATIONS),
        ("pooling", pooling, POOLINGS),
    ):
        if word not in table:
            raise unknown(kind, word, table)


def check_counts(network: str, **counts: int) -> None:
    """Raise InputError for a count below 1."""
    for what, number in counts.items():
        if number < 1:
            raise InputError(f"A {network} with {what}={number} is empty; give at least 1.")


def check_groups(norm: str, width: int) -> None:
    """Raise InputError for a width that group norm cannot split into 4 groups."""
    if norm == "group" and width % 4:
        raise InputError(
            f"Group norm makes 4 groups, and width {width} is not a multiple of 4; try width {width + 4 - width % 4}."
        )


def check_pixels(size: tuple[int, int], norm: str = "none") -> None:
    """Raise InputError for images without pixels, and for instance norm over a single one."""
    height, width = size
    if min(size) < 1:
        raise InputError(f"Images of {height}×{width} pixels have no pixels; give the height and width of the images.")
    if norm == "instance" and height * width == 1:
        raise InputError(
            "Instance norm over a single pixel erases it, and these images are 1×1; use norm='layer' or 'none'."
        )
