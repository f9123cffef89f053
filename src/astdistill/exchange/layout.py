"""Which tensors a network's parameters are, and which network it is that has given ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..errors import InputError
from ..models import FlatModel, build_model
from ..models.convnet import MAX_DEPTH
from ..models.names import model_names

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The parameter tensors of a network, in the order of `named_parameters`, which is that of θ."""

    model: str
    image: tuple[int, int, int]
    classes: int
    names: tuple[str, ...]
    shapes: tuple[Shape, ...]

    @staticmethod
    def of(model: str, image: tuple[int, int, int], classes: int) -> Layout:
        """The layout of `model` for images of shape (C, H, W). Raises InputError for a network whose parameters are not all of it."""
        named = dict(FlatModel(build_model(model, image, classes)).module.named_parameters())
        return Layout(model, image, classes, tuple(named), tuple(tuple(part.shape) for part in named.values()))

    @property
    def parameters(self) -> int:
        """P."""
        return sum(torch.Size(shape).numel() for shape in self.shapes)

    def check(self, found: Sequence[Shape], where: str) -> None:
        """Raise InputError, with the network that does fit where there is one, unless these are the network's shapes."""
        if tuple(found) == self.shapes:
            return
        channels, height, width = self.image
        wanted = f"'{self.model}' for {self.classes} classes of {channels}×{height}×{width} images"
        raise InputError(f"{where} {self._difference(found)} of {wanted}; {self._remedy(found)}")

    def _difference(self, found: Sequence[Shape]) -> str:
        for number, (name, wanted, has) in enumerate(zip(self.names, self.shapes, found, strict=False)):
            if wanted != has:
                return f"has shape {list(has)} in tensor {number}, which is not the {list(wanted)} of '{name}'"
        return f"has {len(found)} tensors, which are not the {len(self.shapes)}"

    def _remedy(self, found: Sequence[Shape]) -> str:
        fits = fitting_model(found, self.image, self.classes)
        if fits:
            larger = ", or the size of larger images with --data.size" if "nopool" in fits else ""
            return f"give --model {fits}, which has these shapes{larger}."
        told = found[-1][0] if found and found[-1] else 0
        if told and told != self.classes:
            return f"these experts seem to tell {told} classes apart: name the data that they learned from with --data and --data.*."
        return "name the network with --model, and the data and the image size that it learned from with --data and --data.size."


def fitting_model(found: Sequence[Shape], image: tuple[int, int, int], classes: int) -> str | None:
    """The first of our networks whose parameters have these shapes, or None. Norms that share their shapes are not told apart."""
    if not found or not found[0]:
        return None
    for name in _candidates(found[0][0]):
        try:
            with torch.device("meta"):
                network = build_model(name, image, classes)
        except InputError:  # there is no such network for images of this size
            continue
        if [tuple(part.shape) for part in network.parameters()] == list(found) and not any(True for _ in network.buffers()):
            return name
    return None


def _candidates(width: int) -> Iterator[str]:
    """ConvNets of every depth whose first layer has `width` channels, then the other families."""
    said = "" if width == 128 else f"-w{width}"
    for pooling in ("", "-nopool"):
        for norm in ("", "-nonorm"):
            yield from (f"convnet-d{depth}{said}{norm}{pooling}" for depth in range(1, MAX_DEPTH + 1))
    yield from (name for name in model_names() if ":" not in name and not name.startswith("convnet"))
