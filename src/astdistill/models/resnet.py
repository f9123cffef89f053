"""ResNet18 for small images, with strides or with average pooling."""

from __future__ import annotations

from torch import nn

from ..runtime.errors import unknown
from ..runtime.shapes import Batch, Logits
from .layers import ACTIVATIONS, check_counts, check_groups, check_layer_names, check_pixels, normed

SHRINKINGS = ("stride", "avg")


class Block(nn.Module):
    """Two 3×3 convolutions with a shortcut, which is a 1×1 convolution where channels or size change (He et al.,
    arXiv 1512.03385).

    `halve` is how the image is halved: 'stride' of the first convolution and the shortcut, 'avg' for 2×2 average
    pooling after them, '' for not at all.
    """

    def __init__(self, inputs: int, outputs: int, norm: str, activation: str, halve: str) -> None:
        super().__init__()
        stride, pool, bias = 1, nn.Identity(), norm == "none"
        match halve:
            case "stride":
                stride = 2
            case "avg":
                pool = nn.AvgPool2d(2)
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias),
            *normed(norm, outputs),
            ACTIVATIONS[activation](),
            pool,
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias),
            *normed(norm, outputs),
        )
        conv = nn.Conv2d(inputs, outputs, 1, stride, bias=bias)  # draws random numbers in every block
        self.shortcut = nn.Identity()
        if inputs != outputs or halve:
            self.shortcut = nn.Sequential(conv, pool, *normed(norm, outputs))
        self.activation = ACTIVATIONS[activation]()

    def forward(self, images: Batch) -> Batch:
        """The feature maps, halved or not."""
        return self.activation(self.body(images) + self.shortcut(images))


class ResNet18(nn.Module):
    """A 3×3 convolution, four stages of two blocks with `width` to 8 `width` channels, the mean over all pixels, one
    linear layer.

    Published for CIFAR: `width` 64, instance norm ('ResNet18' of the trajectory-matching papers) or batch norm
    ('ResNet18BN'). With `shrinking="avg"`, their 'AP', a 2×2 average pooling halves the image where the original takes
    strides of 2. Different from published: the mean over all pixels replaces a 4×4 window or a flattened grid,
    which crash at 64 px; convolutions have a bias where there is no norm; an image is not halved below 2 pixels.
    PyTorch's default initialisation. Raises InputError for invalid arguments.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        size: tuple[int, int],
        width: int = 64,
        norm: str = "instance",
        activation: str = "relu",
        shrinking: str = "stride",
    ) -> None:
        super().__init__()
        check_layer_names(norm, activation)
        if shrinking not in SHRINKINGS:
            raise unknown("shrinking", shrinking, SHRINKINGS)
        check_counts("ResNet18", channels=channels, classes=classes, width=width)
        check_groups(norm, width)
        check_pixels(size, norm)
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=norm == "none"),
            *normed(norm, width),
            ACTIVATIONS[activation](),
        )
        blocks: list[nn.Module] = []
        inputs, shortest = width, min(size)
        for outputs, first in ((width, True), (2 * width, False), (4 * width, False), (8 * width, False)):
            smaller = {"stride": (shortest + 1) // 2, "avg": shortest // 2}[shrinking]
            halve = ""
            if not first and smaller >= 2:
                halve, shortest = shrinking, smaller
            blocks += [Block(inputs, outputs, norm, activation, halve), Block(outputs, outputs, norm, activation, "")]
            inputs = outputs
        self.stages = nn.Sequential(*blocks)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, images: Batch) -> Logits:
        """The logits."""
        return self.classifier(self.stages(self.stem(images)).mean(dim=(2, 3)))
