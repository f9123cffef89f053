"""The three files of MTT's `distill.py` and its successors: images, labels and the learned step size."""

from __future__ import annotations

from pathlib import Path

import torch

from ..evaluation import Scores
from ..runs import replacing
from ..shapes import Labels, Targets
from ..synthetic import SyntheticSet
from .formats import Format

IMAGES, LABELS, RATE = "images_best.pt", "labels_best.pt", "lr.pt"


def labels_of(synthetic: SyntheticSet) -> Labels | Targets:
    """Class numbers `[N]`, or logits `[N, K]` where the targets are not one-hot (DATM, TESLA)."""
    if synthetic.labels == "soft":
        return synthetic.targets
    if synthetic.certain:
        return synthetic.hard_labels
    return logits_of(synthetic.targets)  # smoothed labels


def logits_of(probabilities: Targets) -> Targets:
    """Logits whose softmax the given distributions are."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def _write(synthetic: SyntheticSet, _: Scores | None, folder: Path) -> None:
    for name, tensor in ((IMAGES, synthetic.images), (LABELS, labels_of(synthetic)), (RATE, synthetic.lr)):
        with replacing(folder / name) as temporary:
            torch.save(tensor.detach().cpu().contiguous().clone(), temporary)


MTT = Format(
    "mtt",
    f"{IMAGES} [N, C, H, W] as networks see them, {LABELS} (numbers, or logits) and {RATE}, for the scripts of MTT and its successors",
    _write,
)
