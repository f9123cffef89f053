"""Networks of convolutions and of plain layers: the ConvNet of the papers, MLP, LeNet, AlexNet, VGG11."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import TypeGuard

from torch import nn

from ..runtime.errors import InputError
from ..runtime.shapes import Batch, Logits
from .layers import (
    ACTIVATIONS,
    POOL,
    POOLINGS,
    GroupNorm,
    check_counts,
    check_groups,
    check_layer_names,
    check_pixels,
    normed,
    trunk,
)

MAX_DEPTH = 8


class ConvNet(nn.Module):
    """`depth` blocks of [3×3 convolution · norm · activation · 2×2 pooling] and one linear layer (Gidaris & Komodakis,
    arXiv 1804.09458).

    Parameters have the order and the names of mtt-distillation's ConvNet (`features.*`, `classifier.*`), with
    PyTorch's default initialisation. `norm="layer"` normalises over channels and pixels with one scale per channel,
    where that code has one per activation. Raises InputError for an invalid shape, depth or option.
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
        check_layer_names(norm, activation, pooling)
        check_counts("ConvNet", channels=channels, classes=classes, width=width)
        _check_depth(depth)
        check_groups(norm, width)
        check_pixels(size, norm if pooling == "none" else "none")
        _check_size(size, depth, pooling)
        inputs, blocks = channels, list[nn.Module]()
        for _ in range(depth):
            blocks.append(nn.Conv2d(inputs, width, kernel_size=3, padding=1))
            blocks += [*normed(norm, width), ACTIVATIONS[activation]()]
            inputs = width
            if pooling != "none":
                blocks.append(POOLINGS[pooling]())
                size = size[0] // 2, size[1] // 2
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width * size[0] * size[1], classes)

    def forward(self, images: Batch) -> Logits:
        """The logits."""
        return self.classifier(self.features(images).flatten(1))


_LAYERS = frozenset(
    (
        *(ConvNet, nn.Sequential, nn.Conv2d, nn.Linear, nn.Identity, nn.AvgPool2d, nn.MaxPool2d),
        *(GroupNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.BatchNorm2d),
        *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh),
    )
)
"""Layers that draw no random numbers and, without buffers, compute the same in training and in evaluation mode."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_plain(network: nn.Module) -> TypeGuard[ConvNet]:
    """Whether the attributes of its layers say everything that a network computes: a ConvNet, not a class derived from
    it, of layers that torch or this package defines, without buffers, hooks, parametrisations or replaced methods."""
    return (
        type(network) is ConvNet
        and type(network.features) is nn.Sequential
        and type(network.classifier) is nn.Linear
        and not any(True for _ in network.buffers())
        and all(map(_is_plain_layer, network.modules()))
    )


def _is_plain_layer(layer: nn.Module) -> bool:
    # A parametrisation changes the class of a layer; the older weight norm is a hook.
    own, kind = vars(layer), type(layer)
    return (
        kind in _LAYERS
        and not any(own.get(hooks) for hooks in _HOOKS)
        and not any(callable(getattr(kind, name, None)) for name in own)
    )


def architecture(network: ConvNet) -> Hashable:
    """Equal for two plain ConvNets that are the same function of their parameters.

    The repr of a layer does not suffice: that of a pooling omits some of its arguments."""
    return tuple(
        (name, type(layer), *(f"{key}={value!r}" for key, value in vars(layer).items() if not key.startswith("_")))
        for name, layer in network.named_modules()
        if name
    )


def deepest(size: tuple[int, int], pooling: str = "avg") -> int:
    """The largest depth for images of this height and width: every pooling halves them, and stops at one pixel. 0 if
    there is none."""
    if pooling == "none":
        return MAX_DEPTH
    return min(MAX_DEPTH, min(size).bit_length() - 1)


def _check_depth(depth: int) -> None:
    if not 1 <= depth <= MAX_DEPTH:
        raise InputError(
            f"A ConvNet has depth 1 to {MAX_DEPTH}, not {depth}; 3 suits 32 px, 4 suits 64 px, 5 suits 128 px."
        )


def _check_size(size: tuple[int, int], depth: int, pooling: str) -> None:
    height, width = size
    most = deepest(size, pooling)
    if most < 1:
        raise InputError(
            f"Images of {height}×{width} pixels are too small to pool even once; "
            f"use pooling='none' (a name with '-nopool')."
        )
    if depth > most:
        raise InputError(
            f"Images of {height}×{width} pixels are too small for depth {depth} with 2×2 pooling; the largest depth "
            f"for them is {most} ('convnet-d{most}'), or leave out the pooling ('convnet-d{depth}-nopool')."
        )


class Stacked(nn.Module):
    """Feature extractor and classifier."""

    features: nn.Module
    classifier: nn.Module

    def forward(self, images: Batch) -> Logits:
        """The logits."""
        return self.classifier(self.features(images))


class Trunk(Stacked):
    """Convolutions that keep the size, poolings between them, the last feature map averaged to `grid` × `grid` pixels,
    and one linear layer.

    `plan` is that of `layers.trunk`. Raises InputError for invalid arguments.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        size: tuple[int, int],
        plan: Sequence[tuple[int, int]],
        grid: int,
        norm: str,
        activation: str,
        pooling: str,
    ) -> None:
        super().__init__()
        widths = [width for width, kernel in plan if (width, kernel) != POOL]
        check_layer_names(norm, activation, pooling)
        check_counts(type(self).__name__, channels=channels, classes=classes, width=widths[0])
        for width in widths:
            check_groups(norm, width)
        check_pixels(size, norm)
        self.features, last = trunk(channels, size, plan, norm, activation, pooling)
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(grid), nn.Flatten(), nn.Linear(last * grid * grid, classes)
        )


class MLP(Stacked):
    """`depth` hidden layers of `width` units over the flattened image; published: two of 128 (Zhao et al., arXiv
    2006.05929).

    PyTorch's default initialisation. The published code supports only 28×28×1 and 32×32×3. Raises InputError for
    invalid arguments.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        size: tuple[int, int],
        depth: int = 2,
        width: int = 128,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        check_layer_names(activation=activation)
        check_counts("MLP", channels=channels, classes=classes, depth=depth, width=width)
        check_pixels(size)
        units = [channels * size[0] * size[1], *[width] * depth]
        hidden = [(nn.Linear(units[layer], width), ACTIVATIONS[activation]()) for layer in range(depth)]
        self.features = nn.Sequential(nn.Flatten(), *[part for pair in hidden for part in pair])
        self.classifier = nn.Linear(width, classes)


KERNEL, GRID = 5, 5
UNPADDED_SIZES = (32, 14)
"""The image sizes from which the two convolutions are not padded: their input sizes at 32 px."""


class LeNet(Stacked):
    """Two 5×5 convolutions of 6 and 16 channels, each pooled, and linear layers of 120 and 84 units (LeCun et al.,
    1998).

    At 28 px (first convolution padded by 2) and 32 px it is the published network, with 61,706 parameters for one
    channel and ten classes. Where the published code crashes, smaller images are padded, a pooling that would leave no
    pixel is omitted, and the last feature map, of any size, is averaged to 5×5. PyTorch's default initialisation.
    Raises InputError for invalid arguments."""

    def __init__(
        self, channels: int, classes: int, size: tuple[int, int], activation: str = "relu", pooling: str = "max"
    ) -> None:
        super().__init__()
        check_layer_names(activation=activation, pooling=pooling)
        check_counts("LeNet", channels=channels, classes=classes)
        check_pixels(size)
        shortest = min(size)
        layers: list[nn.Module] = []
        for inputs, outputs, unpadded in ((channels, 6, UNPADDED_SIZES[0]), (6, 16, UNPADDED_SIZES[1])):
            padding = KERNEL // 2 if shortest < unpadded else 0
            layers += [nn.Conv2d(inputs, outputs, KERNEL, padding=padding), ACTIVATIONS[activation]()]
            shortest += 2 * padding - KERNEL + 1
            if pooling != "none" and shortest > 1:
                layers.append(POOLINGS[pooling]())
                shortest //= 2
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(GRID))
        units = (16 * GRID * GRID, 120, 84)
        hidden = [part for a, b in pairwise(units) for part in (nn.Linear(a, b), ACTIVATIONS[activation]())]
        self.classifier = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(84, classes))


ALEXNET_GRID = 4


class AlexNet(Trunk):
    """Five convolutions of 1, 1½, 2, 1½ and 1½ times `width` channels, three poolings and one linear layer (arXiv
    2006.05929).

    The first two convolutions are 5×5, the others 3×3; published: `width` 128, no norm. At 32 px it is the published
    network. Elsewhere, where the published code crashes or pads one-channel images, a pooling may be omitted and the
    last feature map is averaged to 4×4. PyTorch's default initialisation. Raises InputError for invalid arguments.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        size: tuple[int, int],
        width: int = 128,
        norm: str = "none",
        activation: str = "relu",
        pooling: str = "max",
    ) -> None:
        wider = width * 3 // 2
        plan = [(width, 5), POOL, (wider, 5), POOL, (2 * width, 3), (wider, 3), (wider, 3), POOL]
        super().__init__(channels, classes, size, plan, ALEXNET_GRID, norm, activation, pooling)


STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))
"""The convolutions of each stage in units of `width`; a pooling ends a stage."""


class VGG11(Trunk):
    """Eight 3×3 convolutions of `width` to 8 `width` channels in five stages, and one linear layer (Simonyan &
    Zisserman, arXiv 1409.1556).

    Published: `width` 64 and a linear layer of 512 inputs in place of three large ones. 'VGG11' in the tables of the
    trajectory-matching papers has instance norm; here the plain name has no norm, as in the VGG paper, and
    `vgg11-instancenorm` is the one of those tables. At 32 px it is the published network. Elsewhere, where the
    published code crashes or pads one-channel images, a pooling may be omitted and the last feature map is averaged to
    one pixel. PyTorch's default initialisation. Raises InputError for invalid arguments."""

    def __init__(
        self,
        channels: int,
        classes: int,
        size: tuple[int, int],
        width: int = 64,
        norm: str = "none",
        activation: str = "relu",
        pooling: str = "max",
    ) -> None:
        plan = [layer for stage in STAGES for layer in (*((width * wider, 3) for wider in stage), POOL)]
        super().__init__(channels, classes, size, plan, 1, norm, activation, pooling)
