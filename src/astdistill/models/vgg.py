"""VGG11 for small images."""

from __future__ import annotations

from torch import nn

from ..shapes import Batch, Logits
from .layers import POOL, check_counts, check_groups, check_pixels, check_words, trunk

STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))
"""The convolutions of each stage in units of `width`; a pooling ends a stage."""


class VGG11(nn.Module):
    """Eight 3×3 convolutions of `width` to 8 `width` channels in five stages, and one linear layer (Simonyan & Zisserman, arXiv 1409.1556).

    Published: `width` 64 and a linear layer of 512 inputs in place of three large ones. 'VGG11' in the tables of the trajectory-matching
    papers has instance norm; here the plain name has none, as in its own paper, and `vgg11-instancenorm` is theirs. At 32 px it is the
    published network. Elsewhere, where the published code crashes or pads one-channel images, a pooling may be left out and the last
    feature map is averaged to one pixel. PyTorch's default initialisation. Raises InputError for what makes no network.
    """

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
        super().__init__()
        check_words(norm, activation, pooling)
        check_counts("VGG11", channels=channels, classes=classes, width=width)
        check_groups(norm, width)
        check_pixels(size, norm)
        plan = [layer for stage in STAGES for layer in (*((width * wider, 3) for wider in stage), POOL)]
        self.features, last = trunk(channels, size, plan, norm, activation, pooling)
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes))

    def forward(self, images: Batch) -> Logits:
        """The logits."""
        return self.classifier(self.features(images))
