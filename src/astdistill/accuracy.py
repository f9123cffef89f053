"""How many images a network gets right."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from .data.dataset import Split
from .shapes import Batch, Logits

BATCH = 1024


Confusion = Int[Tensor, "K K"]
"""How many images of each class (row) a network took for each class (column)."""


@torch.no_grad()
def accuracy(logits: Callable[[Batch], Logits], tested: Split) -> float:
    """The percentage of images for which the largest of a network's `logits` is that of their own label."""
    right = torch.stack([(logits(images).argmax(dim=1) == labels).sum() for images, labels in tested.batches(BATCH)]).sum()
    return 100 * float(right) / len(tested)


@torch.no_grad()
def confusion(logits: Callable[[Batch], Logits], tested: Split, classes: int) -> Confusion:
    """The images of each class by the class whose logit is the largest; the trace over the sum is the accuracy. On the CPU."""
    cells = [classes * labels.long() + logits(images).argmax(dim=1) for images, labels in tested.batches(BATCH)]
    return torch.bincount(torch.cat(cells), minlength=classes**2).view(classes, classes).cpu()
