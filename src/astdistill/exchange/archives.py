"""One file of named arrays, for numpy alone and for torch alone: everything that the distilled file holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..evaluation import Scores
from ..runs import replacing
from ..synthetic import SyntheticSet
from .formats import Format

ARRAYS = "images (as networks see them), pixels, labels, targets, lr, preprocessing.*, classes and header (JSON)"


def _tensors(synthetic: SyntheticSet) -> dict[str, Tensor]:
    """The numbers of the set, on the CPU: images and pixels `[N, C, H, W]`, labels `[N]`, targets `[N, K]` as distributions, lr."""
    found = {
        "images": synthetic.images,
        "pixels": synthetic.pixels(),
        "labels": synthetic.hard_labels,
        "targets": synthetic.probabilities,
        "lr": synthetic.lr,
    }
    found |= {f"preprocessing.{name}": tensor for name, tensor in synthetic.preprocessing.tensors().items()}
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in found.items()}


def _write_npz(synthetic: SyntheticSet, _: Scores | None, folder: Path) -> None:
    arrays = {name: tensor.numpy() for name, tensor in _tensors(synthetic).items()}
    words = {"classes": np.array(synthetic.classes), "header": np.array(json.dumps(synthetic.header()))}
    with replacing(folder / "synthetic.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays, **words)


def _write_torch(synthetic: SyntheticSet, _: Scores | None, folder: Path) -> None:
    words = {"classes": list(synthetic.classes), "header": json.dumps(synthetic.header())}
    with replacing(folder / "synthetic.pt") as temporary:
        torch.save(_tensors(synthetic) | words, temporary)


NPZ = Format("npz", f"synthetic.npz, which numpy.load reads without pickle: {ARRAYS}", _write_npz)
TORCH = Format("torch", f"synthetic.pt, a dictionary that torch.load reads with weights_only=True: {ARRAYS}", _write_torch)
