"""The finished networks of an evaluation, kept beside its scores so that none is trained twice."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.dataset import Split
from ..data.preprocessing import Preprocessing
from ..records import digest
from ..runs import read_json, write_json
from ..synthetic import SyntheticSet
from ..textures import ORDINARY
from .training import NetworkResult

FORMAT = 1
DIGITS = 16
INVERTED = 1 << 28
"""Bytes of images whose preprocessing is undone at once."""


class Ledger:
    """Results by what they depend on: recipe, network, images, data set, tested split, seed and number of the network.

    A changed recipe or image asks for other keys, so it starts over without touching what was there. With `path` None nothing is stored.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        stored: dict[str, Any] = read_json(path) if path is not None and path.exists() else {}
        self._stored = stored.get("networks", {}) if stored.get("format") == FORMAT else {}

    @staticmethod
    def beside(out: Path | None) -> Ledger:
        """The ledger of the folder `out`, which every table of that folder shares."""
        return Ledger(None if out is None else out / "scores.partial.json")

    def get(self, key: str) -> NetworkResult | None:
        """The result under `key`, or None."""
        found = self._stored.get(key)
        if found is None:
            return None
        by_class, counts = found.get("by_class"), found.get("confusion")  # files of earlier versions have neither
        return NetworkResult(
            found["final"],
            found["best"],
            found["diverged"],
            None if by_class is None else tuple(by_class),
            None if counts is None else tuple(map(tuple, counts)),
        )

    def put(self, key: str, result: NetworkResult, about: dict[str, Any]) -> None:
        """Store one result at once, with a readable note of what it is."""
        self._stored[key] = {**asdict(result), "about": about}
        if self.path is not None:
            write_json(self.path, {"format": FORMAT, "networks": self._stored})


def key(about: dict[str, Any]) -> str:
    """Twelve hexadecimal digits of everything a network's accuracy depends on."""
    return digest(about)


def content(synthetic: SyntheticSet) -> str:
    """A hash of what a network learns from a set: images, targets, their kind, step size; of textures also what they lie on."""
    torus = "" if synthetic.torus == ORDINARY else f"-{synthetic.torus.digest()}"
    return _sha(synthetic.images, synthetic.targets, synthetic.lr) + synthetic.labels + torus


def tested_content(split: Split, preprocessing: Preprocessing) -> str:
    """A hash of the 8-bit pixels and the labels that networks are tested on.

    Of pixels, because the last bits of whitened images change with the linear-algebra library and its number of threads.
    """
    state = hashlib.sha256(_title((len(split), *split.shape), torch.uint8))
    for images, _ in split.batches(max(1, INVERTED // (4 * math.prod(split.shape)))):
        state.update(_bytes(preprocessing.invert(images).mul(255).round().clamp(0, 255).to(torch.uint8)))
    state.update(_title(tuple(split.labels.shape), split.labels.dtype) + _bytes(split.labels))
    return state.hexdigest()[:DIGITS]


def _sha(*tensors: Tensor) -> str:
    state = hashlib.sha256()
    for tensor in tensors:
        state.update(_title(tuple(tensor.shape), tensor.dtype) + _bytes(tensor))
    return state.hexdigest()[:DIGITS]


def _title(shape: tuple[int, ...], dtype: torch.dtype) -> bytes:
    return repr((shape, str(dtype))).encode()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()
