"""LeNet-5 as the dataset-distillation papers evaluate it."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from ..shapes import Batch, Logits
from .layers import ACTIVATIONS, POOLINGS, check_counts, check_pixels, check_words

KERNEL, GRID = 5, 5
WANTED = (32, 14)
"""The sizes that the two convolutions have at 32 px, where nothing is padded."""


class LeNet(nn.Module):
    """Two 5×5 convolutions of 6 and 16 channels, each pooled, and linear layers of 120 and 84 units (LeCun et al., 1998).

    At 28 px (first convolution padded by 2) and 32 px it is the published network, with 61,706 parameters for one channel and ten classes.
    Where the published code crashes, here smaller images are padded, a pooling that would leave nothing is left out, and the last feature
    map, of whatever size, is averaged to 5×5. PyTorch's default initialisation. Raises InputError for what makes no network.
    """

    def __init__(self, channels: int, classes: int, size: tuple[int, int], activation: str = "relu", pooling: str = "max") -> None:
        super().__init__()
        check_words(activation=activation, pooling=pooling)
        check_counts("LeNet", channels=channels, classes=classes)
        check_pixels(size)
        shortest = min(size)
        layers: list[nn.Module] = []
        for inputs, outputs, wanted in ((channels, 6, WANTED[0]), (6, 16, WANTED[1])):
            padding = KERNEL // 2 if shortest < wanted else 0
            layers += [nn.Conv2d(inputs, outputs, KERNEL, padding=padding), ACTIVATIONS[activation]()]
            shortest += 2 * padding - KERNEL + 1
            if pooling != "none" and shortest > 1:
                layers.append(POOLINGS[pooling]())
                shortest //= 2
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(GRID))
        units = (16 * GRID * GRID, 120, 84)
        hidden = [part for a, b in pairwise(units) for part in (nn.Linear(a, b), ACTIVATIONS[activation]())]
        self.classifier = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(84, classes))

    def forward(self, images: Batch) -> Logits:
        """The logits."""
        return self.classifier(self.features(images))
