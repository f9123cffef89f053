"""Formats that a distilled set is written in: named arrays for numpy or torch, MTT's three files, pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.synthetic import SyntheticSet
from ..evaluation.scores import Scores
from ..report.pictures import colours, file_name, save_labelled, save_picture, stretched
from ..runtime.files import replacing, write_text
from ..runtime.shapes import Labels, Targets


@dataclass(frozen=True)
class Format:
    """A way to write a distilled set for other programs."""

    name: str
    """The name in `--format`."""
    text: str
    """One sentence: what is written, and which programs read it."""
    write: Callable[[SyntheticSet, Scores | None, Path], None]
    """Writes the set, prepared for publication and with the sub-images of slots as separate images, and its scores, if
    any, into an empty folder. Optional packages are imported inside."""
    keeps_slots: bool = False
    """Whether `write` gets slots unchanged, because it also writes a synthetic.safetensors that describes them."""


ARRAYS = "images (as networks see them), pixels, labels, targets, lr, preprocessing.*, classes and header (JSON)"


def _tensors(synthetic: SyntheticSet) -> dict[str, Tensor]:
    """The tensors of the set, on the CPU: images and pixels `[N, C, H, W]`, labels `[N]`, targets `[N, K]` as
    distributions, lr."""
    tensors = {
        "images": synthetic.images,
        "pixels": synthetic.pixels(),
        "labels": synthetic.hard_labels,
        "targets": synthetic.probabilities,
        "lr": synthetic.lr,
    }
    tensors |= {f"preprocessing.{name}": tensor for name, tensor in synthetic.preprocessing.tensors().items()}
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _write_npz(synthetic: SyntheticSet, _: Scores | None, folder: Path) -> None:
    arrays = {name: tensor.numpy() for name, tensor in _tensors(synthetic).items()}
    texts = {"classes": np.array(synthetic.classes), "header": np.array(json.dumps(synthetic.header()))}
    with replacing(folder / "synthetic.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays, **texts)  # pyright: ignore[reportArgumentType]


def _write_torch(synthetic: SyntheticSet, _: Scores | None, folder: Path) -> None:
    texts = {"classes": list(synthetic.classes), "header": json.dumps(synthetic.header())}
    with replacing(folder / "synthetic.pt") as temporary:
        torch.save(_tensors(synthetic) | texts, temporary)


NPZ = Format("npz", f"synthetic.npz, which numpy.load reads without pickle: {ARRAYS}", _write_npz)
TORCH = Format(
    "torch", f"synthetic.pt, a dictionary that torch.load reads with weights_only=True: {ARRAYS}", _write_torch
)
IMAGES, LABELS, RATE = "images_best.pt", "labels_best.pt", "lr.pt"


def labels_of(synthetic: SyntheticSet) -> Labels | Targets:
    """Class numbers `[N]`, or logits `[N, K]` where the targets are not one-hot (DATM, TESLA); for weights those of
    their shares, since the scripts support distributions only."""
    if synthetic.labels == "soft":
        return synthetic.targets
    if synthetic.certain:
        return synthetic.hard_labels
    return logits_of(synthetic.targets)  # smoothed labels, or weights


def logits_of(probabilities: Targets) -> Targets:
    """Logits whose softmax gives these distributions."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def _write_mtt(synthetic: SyntheticSet, _: Scores | None, folder: Path) -> None:
    for name, tensor in ((IMAGES, synthetic.images), (LABELS, labels_of(synthetic)), (RATE, synthetic.lr)):
        with replacing(folder / name) as temporary:
            torch.save(tensor.detach().cpu().contiguous().clone(), temporary)


MTT = Format(
    "mtt",
    f"{IMAGES} [N, C, H, W] as networks see them, {LABELS} (numbers, or logits) and {RATE}, "
    "for the scripts of MTT and its successors",
    _write_mtt,
)
RANGES = "unclipped/ranges.csv"


def _write_png(synthetic: SyntheticSet, _: Scores | None, folder: Path) -> None:
    unclipped = synthetic.unclipped()
    names = _file_names(synthetic)
    low, high = unclipped.amin(dim=(1, 2, 3)), unclipped.amax(dim=(1, 2, 3))
    for kind, pixels in (("clipped", unclipped.clamp(0, 1)), ("unclipped", stretched(unclipped))):
        for name, picture in zip(names, colours(pixels), strict=True):
            save_picture(picture, folder / kind / name)
        save_labelled(pixels, synthetic.classes, folder / f"grid-{kind}.png")
    rows = [f"{name},{low:.6g},{high:.6g}" for name, low, high in zip(names, low.tolist(), high.tolist(), strict=True)]
    write_text(folder / RANGES, "\n".join(["file,black is,white is", *rows]) + "\n")


def _file_names(synthetic: SyntheticSet) -> list[str]:
    """`0000-apple.png` and so on: the number in the set and the most probable class."""
    labels = synthetic.hard_labels.tolist()
    return [f"{number:04d}-{file_name(synthetic.classes[label])}.png" for number, label in enumerate(labels)]


PNG = Format(
    "png",
    "clipped/0000-CLASS.png and so on with whitening undone and cut to [0, 1], unclipped/ with each image in its own "
    f"range (told by {RANGES}), and a labelled grid of each",
    _write_png,
)
