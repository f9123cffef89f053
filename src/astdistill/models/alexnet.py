"""The small AlexNet of the dataset-distillation papers."""

from __future__ import annotations

from torch import nn

from ..shapes import Batch, Logits
from .layers import POOL, check_counts, check_groups, check_pixels, check_words, trunk

GRID = 4


class AlexNet(nn.Module):
    """Five convolutions of 1, 1½, 2, 1½ and 1½ times `width` channels, three poolings and one linear layer (arXiv 2006.05929).

    The first two convolutions are 5×5, the others 3×3; published: `width` 128, no norm. At 32 px it is the published network. Elsewhere,
    where the published code crashes or pads one-channel images, a pooling may be left out and the last feature map is averaged to 4×4.
    PyTorch's default initialisation. Raises InputError for what makes no network.
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
        super().__init__()
        check_words(norm, activation, pooling)
        check_counts("AlexNet", channels=channels, classes=classes, width=width)
        wider = width * 3 // 2
        for each in (width, wider):
            check_groups(norm, each)
        check_pixels(size, norm)
        plan = [(width, 5), POOL, (wider, 5), POOL, (2 * width, 3), (wider, 3), (wider, 3), POOL]
        self.features, last = trunk(channels, size, plan, norm, activation, pooling)
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(GRID), nn.Flatten(), nn.Linear(last * GRID * GRID, classes))

    def forward(self, images: Batch) -> Logits:
        """The logits."""
        return self.classifier(self.features(images))
