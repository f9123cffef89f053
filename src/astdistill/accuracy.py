"""How many images a network gets right."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .data.dataset import Split
from .shapes import Batch, Logits

BATCH = 1024


@torch.no_grad()
def accuracy(logits: Callable[[Batch], Logits], tested: Split) -> float:
    """The percentage of images for which the largest of a network's `logits` is that of their own label."""
    parts = zip(tested.images.split(BATCH), tested.labels.split(BATCH), strict=True)
    right = torch.stack([(logits(images).argmax(dim=1) == labels).sum() for images, labels in parts]).sum()
    return 100 * float(right) / len(tested)
