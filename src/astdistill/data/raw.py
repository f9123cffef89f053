"""What every reader gives, before any preprocessing: uint8 pixels, labels, class names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from ..runtime.errors import InputError
from ..runtime.shapes import Labels
from .dataset import Split


def rows_of(part: Split, indices: Tensor) -> Split:
    """The images at `indices`, in that order; the same part when that is all of them."""
    if len(indices) == len(part) and bool((indices == torch.arange(len(part))).all()):
        return part
    return part.select(indices)


@dataclass(frozen=True)
class RawData:
    """A labelled image set as it was stored, its splits still bytes; `test` is None where there is no test part."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split | None

    def map_pixels(self, change: Any) -> RawData:
        """The same set with `change` applied to the pixels of each part, which it is given in memory."""
        test = None if self.test is None else Split(change(self.test.images[:]), self.test.labels)
        return replace(self, train=Split(change(self.train.images[:]), self.train.labels), test=test)


def whole_numbers(labels: Any, where: str) -> Labels:
    """The labels as `[N]` int64; `[N, 1]` is read as `[N]`. Raises InputError for names, fractions, missing values and
    other shapes."""
    given = labels if isinstance(labels, Tensor) else np.asarray(labels)
    kind = str(given.dtype)
    if "int" not in kind:
        raise InputError(f"The labels of {where} are of type {kind}; give one integer 0..K-1 per image.")
    values = (
        torch.as_tensor(given if isinstance(given, Tensor) else given.astype(np.int64)).detach().to("cpu", torch.int64)
    )
    values = values.squeeze(1) if values.ndim == 2 and values.shape[1] == 1 else values
    if values.ndim != 1:
        raise InputError(f"The labels of {where} have shape {tuple(values.shape)}; give one integer 0..K-1 per image.")
    return values


def checked_labels(labels: Any, classes: int, where: str) -> Labels:
    """The labels as `[N]` int64. Raises InputError unless they are whole numbers 0 … classes − 1."""
    values = whole_numbers(labels, where)
    outside = ((values < 0) | (values >= classes)).nonzero()
    if len(outside):
        row = int(outside[0])
        raise InputError(
            f"Label {int(values[row])} of {where} (image {row}) is not one of 0..{classes - 1}; renumber the labels or "
            f"name every class."
        )
    return values


def checked_count(pixels: UInt8[Tensor, "M C H W"], labels: Labels, where: str) -> Split:
    """The pair as a part. Raises InputError when there are not as many labels as images, or none at all."""
    if len(pixels) != len(labels):
        raise InputError(f"{where} has {len(pixels)} images but {len(labels)} labels; give one label per image.")
    if not len(labels):
        raise InputError(f"{where} holds no images; give at least one per class.")
    return Split(pixels, labels)


def class_names(labels: Any, names: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """The names given, or the numbers 0 … largest label. Raises InputError for repeated names or labels that are not
    numbers."""
    if names is None:
        values = whole_numbers(labels, where)
        return tuple(map(str, range(max(int(values.max()) + 1, 0) if len(values) else 0)))
    repeated = [name for name in names if list(names).count(name) > 1]
    if repeated:
        raise InputError(f"The class name '{repeated[0]}' is given twice; every class needs its own name.")
    return tuple(map(str, names))
