"""The plan of one inner loop: every random number of it, drawn before it starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ..augment import Draw, apply, draw, merged
from ..seeds import sent
from ..shapes import Batch, Images
from ..textures import ORDINARY, Crops, Torus

AT_ONCE, AT_ONCE_CUDA = 2**20, 2**24
"""Numbers in the images that are augmented together: 4 MB on a CPU, 64 MB on a GPU."""


@dataclass(frozen=True)
class Plan:
    """Which images each inner step sees, `[T, B]`, which part of each, and how it is augmented. The same plan gives the same bits."""

    indices: Int[Tensor, "T B"]
    augmentation: tuple[Draw, ...]
    crops: tuple[Crops, ...]

    @property
    def steps(self) -> int:
        """T, the number of inner steps."""
        return len(self.indices)

    def augment(self, step: int, images: Batch) -> Batch:
        """A_i(images): the crops, and then the augmentation, drawn for `step`."""
        return apply(self.crops[step](images), self.augmentation[step])

    def augment_steps(self, steps: range, images: Images) -> list[Batch]:
        """A_i(images[i − steps.start]) for each step i of `steps`, where `images` are `[S, B, C, H, W]`. Differentiable in the images.

        The same numbers as `augment` gives step by step. Steps that drew the same operation go through it as one batch, since for
        a few images most of an operation's time is what it costs to call it: on a GPU this halves the time of a whole outer step.
        """
        seen = [self.crops[step](batch) for step, batch in zip(steps, images.unbind(0), strict=True)]
        by_op: dict[str, list[int]] = {}
        for place, step in enumerate(steps):
            by_op.setdefault(self.augmentation[step].op, []).append(place)
        found = list(seen)
        for places in by_op.values():
            together = apply(torch.cat([seen[place] for place in places]), merged([self.augmentation[steps[place]] for place in places]))
            for place, batch in zip(places, together.split(images.shape[1]), strict=True):
                found[place] = batch
        return found

    def portions(self, steps: range, images: Images) -> list[range]:
        """`steps` in as long runs as may be augmented together, so that their images take a bounded amount of memory."""
        each = self.indices.shape[1] * images[0].numel()
        most = max(1, (AT_ONCE_CUDA if images.is_cuda else AT_ONCE) // each)
        return [steps[first : first + most] for first in range(0, len(steps), most)]


def draw_plan(
    steps: int,
    count: int,
    batch: int | None,
    strategy: str,
    shape: tuple[int, int, int],
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    torus: Torus = ORDINARY,
) -> Plan:
    """A plan of `steps` batches out of `count` synthetic images, of which a network sees `shape` (C, H, W).

    The whole set is used at every step if it fits into `batch`. Otherwise batches are cut from reshuffled passes laid end to
    end, so that every image is seen equally often and every batch has the same size, also where `batch` does not divide `count`.
    On a torus each canvas of a batch is looked at `samples` times, and B counts the looks.
    """
    size = count if batch is None else min(batch, count)
    if size == count:
        indices = torch.arange(count).expand(steps, count)
    else:
        passes = -(-steps * size // count)
        stream = torch.cat([torch.randperm(count, generator=generator) for _ in range(passes)])
        indices = stream[: steps * size].view(steps, size)
    indices = torus.repeated(indices)
    seen = indices.shape[1]
    crops = tuple(torus.draw(seen, (shape[1], shape[2]), generator).to(device) for _ in range(steps))
    draws = tuple(draw(strategy, seen, shape, generator).to(device) for _ in range(steps))
    return Plan(sent(indices, device), draws, crops)
