"""The multilayer perceptron of the dataset-distillation papers' cross-architecture tables."""

from __future__ import annotations

from torch import nn

from ..shapes import Batch, Logits
from .layers import ACTIVATIONS, check_counts, check_pixels, check_words


class MLP(nn.Module):
    """`depth` hidden layers of `width` units over the flattened image; published: two of 128 (Zhao et al., arXiv 2006.05929).

    PyTorch's default initialisation. The published code knows 28×28×1 and 32×32×3 only. Raises InputError for what makes no network.
    """

    def __init__(
        self, channels: int, classes: int, size: tuple[int, int], depth: int = 2, width: int = 128, activation: str = "relu"
    ) -> None:
        super().__init__()
        check_words(activation=activation)
        check_counts("MLP", channels=channels, classes=classes, depth=depth, width=width)
        check_pixels(size)
        units = [channels * size[0] * size[1], *[width] * depth]
        hidden = [(nn.Linear(units[layer], width), ACTIVATIONS[activation]()) for layer in range(depth)]
        self.features = nn.Sequential(nn.Flatten(), *[part for pair in hidden for part in pair])
        self.classifier = nn.Linear(width, classes)

    def forward(self, images: Batch) -> Logits:
        """The logits."""
        return self.classifier(self.features(images))
