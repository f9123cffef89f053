"""The distilled set: images, targets, rate, and all that a stranger with only the file needs to use it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .data.config import DataConfig
from .data.preprocessing import Preprocessing
from .errors import InputError
from .runs import load_tensors, save_tensors
from .shapes import Images, Labels, Scalar, Targets

FORMAT = 1
WORDS = ("model", "labels", "augmentation", "momentum", "method", "fingerprint", "provenance")
"""Fields that are written to the file's header as they are."""


@dataclass(frozen=True)
class SyntheticSet:
    """X, Y and η of a distillation, in the preprocessed space of the experts.

    images `[N, C, H, W]` and targets `[N, K]`, float32, N = K × ipc, grouped by class. Hard targets are one-hot rows; soft targets
    are logits, to be passed through a softmax. `lr` is the learned step size η, a positive scalar. `augmentation` is the
    strategy that the student saw, `momentum` the inner momentum, `model` the name of the student network.
    """

    images: Images
    targets: Targets
    lr: Scalar
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    data: DataConfig
    model: str
    labels: Literal["hard", "soft"] = "hard"
    augmentation: str = ""
    momentum: float = 0.0
    method: str = ""
    fingerprint: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def ipc(self) -> int:
        """Images per class."""
        return len(self.images) // len(self.classes)

    @property
    def hard_labels(self) -> Labels:
        """The most probable class of every image, `[N]`."""
        return self.targets.argmax(dim=1)

    @property
    def probabilities(self) -> Targets:
        """The targets as distributions over the classes, `[N, K]`."""
        return self.targets.softmax(dim=1) if self.labels == "soft" else self.targets

    def pixels(self) -> Images:
        """The images with the whitening undone, clipped to [0, 1]."""
        return self.preprocessing.invert(self.images.detach().float().cpu()).clamp(0, 1)

    def save(self, path: Path) -> None:
        """Write one safetensors file that is enough to train on, evaluate and look at the set."""
        tensors: dict[str, Tensor] = {"images": self.images, "targets": self.targets, "lr": self.lr}
        tensors |= {f"preprocessing.{name}": tensor for name, tensor in self.preprocessing.tensors().items()}
        save_tensors(path, tensors, self._header())

    def _header(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.describe(),
            "data": self.data.to_json(),
            "model": self.model,
            "labels": self.labels,
            "augmentation": self.augmentation,
            "momentum": self.momentum,
            "method": self.method,
            "fingerprint": self.fingerprint,
            "provenance": self.provenance,
        }

    @staticmethod
    def load(path: str | Path) -> SyntheticSet:
        """The set in `path`, a file or a run folder holding `synthetic.safetensors`. Raises InputError for any other file."""
        file = Path(path)
        file = file / "synthetic.safetensors" if file.is_dir() else file
        tensors, header = load_tensors(file)
        if header.get("format") != FORMAT or "images" not in tensors:
            raise InputError(
                f"{file} is not a distilled set of format {FORMAT} (it says {header.get('format')!r}); "
                f"name the synthetic.safetensors of a run."
            )
        absent = [
            name for name in ("targets", "lr", "classes", "preprocessing", "data", *WORDS) if name not in tensors and name not in header
        ]
        if absent:
            raise InputError(f"{file} lacks its '{absent[0]}'; take a whole synthetic.safetensors that astdistill wrote.")
        state = {name.removeprefix("preprocessing."): tensor for name, tensor in tensors.items() if name.startswith("preprocessing.")}
        return SyntheticSet(
            images=tensors["images"],
            targets=tensors["targets"],
            lr=tensors["lr"],
            classes=tuple(header["classes"]),
            preprocessing=Preprocessing.restore(header["preprocessing"], state),
            data=DataConfig.model_validate(header["data"]),
            **{name: header[name] for name in WORDS},
        )


def one_hot(labels: Labels, classes: int) -> Targets:
    """Hard labels as distributions, `[N]` to `[N, K]` float32."""
    return torch.nn.functional.one_hot(labels, classes).to(torch.float32)


def load(path: str | Path) -> SyntheticSet:
    """The distilled set in `path`: a file, or a run folder that holds `synthetic.safetensors`."""
    return SyntheticSet.load(path)
