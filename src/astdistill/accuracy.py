"""How many images a network gets right."""

from __future__ import annotations

import torch
from torch import nn

from .data.dataset import Split

BATCH = 1024


@torch.no_grad()
def accuracy(network: nn.Module, tested: Split) -> float:
    """The percentage of images that `network`, in evaluation mode, gives their own label."""
    network.eval()
    parts = zip(tested.images.split(BATCH), tested.labels.split(BATCH), strict=True)
    right = torch.stack([(network(images).argmax(dim=1) == labels).sum() for images, labels in parts]).sum()
    return 100 * float(right) / len(tested)
