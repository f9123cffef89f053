"""Memory that the native engine keeps between calls."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Workspace:
    """Buffers by name, made once for the largest shape: fresh memory costs more than the arithmetic that fills it."""

    kept: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, name: str, *shape: int) -> Tensor:
        """A buffer with what was last written under that name and shape; where another shape was, the content is undefined."""
        size, found = math.prod(shape), self.kept.get(name)
        if found is None or len(found) < size:
            found = self.kept[name] = torch.empty(size)
        return found[:size].view(shape)
