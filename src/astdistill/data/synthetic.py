"""The distilled set: images, targets, learning rate, and all that a stranger with only the file needs to use it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from ..runtime.errors import InputError
from ..runtime.files import load_tensors, save_tensors
from ..runtime.provenance import without_places
from ..runtime.run_dir import RunDir
from ..runtime.shapes import Images, Labels, Scalar, Targets
from .dataset import DataConfig, dimensions
from .preprocessing import Preprocessing
from .textures import TextureSpec

FORMAT = 1
WORDS = ("model", "labels", "augmentation", "momentum", "method", "fingerprint", "provenance")
"""Fields that are written to the file's header as they are."""
LATER = ("canvas", "canvas_samples")
"""The same; files from before there were textures lack them."""
PRIVATE = ("arguments", "machine")
"""What of the provenance concerns nobody else."""


@dataclass(frozen=True)
class SyntheticSet:
    """X, Y and η of a distillation, in the preprocessed space of the experts.

    images `[N, C, H, W]` and targets `[N, K]`, float32, N = K × ipc, grouped by class. Hard targets are one-hot rows;
    soft targets are logits, to be passed through a softmax. `lr` is the learned learning rate η, a positive scalar.
    `augmentation` is the strategy that the student saw, `momentum` the inner momentum, `model` the name of the student
    network.

    Above a `canvas` k of 1 the images are textures, `[N, C, k H, k W]` on a torus; networks learn from `canvas_samples`
    random circular crops `[C, H, W]` of each in every step.
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
    canvas: int = 1
    canvas_samples: int = 1

    def __repr__(self) -> str:
        """One line: images, shape, classes, labels, network, method."""
        shape = dimensions(self.images.shape[1:])
        words = (f"{len(self.classes)} classes", f"{self.labels} labels", self.model, self.method)
        return f"{type(self).__name__}({len(self.images):,} images of {shape}, {', '.join(filter(None, words))})"

    @property
    def texture(self) -> TextureSpec:
        """What the images lie on."""
        return TextureSpec(canvas=self.canvas, samples=self.canvas_samples)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of what a network sees of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height // self.canvas, width // self.canvas

    @property
    def seen(self) -> int:
        """Images that a network sees in one pass over the set."""
        return len(self.images) * self.canvas_samples

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

    @property
    def certain(self) -> bool:
        """Whether every target is one class for sure: hard labels that nobody has smoothed."""
        return self.labels == "hard" and torch.equal(
            self.targets, one_hot(self.hard_labels, len(self.classes)).to(self.targets)
        )

    def unclipped(self) -> Images:
        """The images with the whitening undone, on the CPU, also where that leaves [0, 1]; of textures the whole
        canvases."""
        return self.texture.undone(self.images.detach().float().cpu(), self.preprocessing.to("cpu").invert)

    def pixels(self) -> Images:
        """The images with the whitening undone, clipped to [0, 1]; of textures the whole canvases (see
        `TextureSpec.undone`)."""
        return self.unclipped().clamp(0, 1)

    def published(self) -> Self:
        """The set as others get it: of folders and files their own names alone, no command line and no machine.

        The fingerprint still tells whether somebody's data are those that it was made from.
        """
        provenance = {name: value for name, value in self.provenance.items() if name not in PRIVATE}
        data = self.data.replace(source=without_places(self.data.source))
        return replace(self, data=data, provenance=without_places(provenance))

    def compact(self) -> Self:
        """The same set without ZCA's matrix, for a file of a few hundred kB.

        It is evaluated as it is on the data that it was made of, which bring the matrix. To look at its images, or to
        use it on other images, see `completed`.
        """
        return replace(self, preprocessing=self.preprocessing.compact())

    def completed(self, preprocessing: Preprocessing) -> Self:
        """The same set with the whole `preprocessing` of the data that it was made of. Raises InputError where it is
        another one."""
        if preprocessing.hash != self.preprocessing.hash:
            raise InputError(
                f"The set was made with the preprocessing {self.preprocessing.hash}, not {preprocessing.hash}; load "
                "the data as the set names it: load_dataset(synthetic.data)."
            )
        return replace(self, preprocessing=preprocessing)

    def save(self, path: Path) -> None:
        """Write one safetensors file that is enough to train on, evaluate and look at the set."""
        tensors: dict[str, Tensor] = {"images": self.images, "targets": self.targets, "lr": self.lr}
        tensors |= {f"preprocessing.{name}": tensor for name, tensor in self.preprocessing.tensors().items()}
        save_tensors(path, tensors, self.header())

    def header(self) -> dict[str, Any]:
        """Everything that is no tensor, ready for JSON: what the file says of itself."""
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
            "canvas": self.canvas,
            "canvas_samples": self.canvas_samples,
        }

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The set in `path`, a file or a run folder holding `synthetic.safetensors`. Raises InputError for any other
        file."""
        file = Path(path)
        file = RunDir(file).synthetic if file.is_dir() else file
        if not file.exists():
            raise InputError(
                f"There is no file {file}; name a folder or file of a finished run, such as runs/demo, which this "
                f"makes: astdistill demo"
            )
        tensors, header = load_tensors(file)
        if header.get("format") != FORMAT or "images" not in tensors:
            raise InputError(
                f"{file} is not a distilled set of format {FORMAT} (it says {header.get('format')!r}); "
                f"name the synthetic.safetensors of a run."
            )
        absent = [
            name
            for name in ("targets", "lr", "classes", "preprocessing", "data", *WORDS)
            if name not in tensors and name not in header
        ]
        if absent:
            raise InputError(
                f"{file} lacks its '{absent[0]}'; take a whole synthetic.safetensors that astdistill wrote."
            )
        state = {
            name.removeprefix("preprocessing."): tensor
            for name, tensor in tensors.items()
            if name.startswith("preprocessing.")
        }
        return cls(
            images=tensors["images"],
            targets=tensors["targets"],
            lr=tensors["lr"],
            classes=tuple(header["classes"]),
            preprocessing=Preprocessing.restore(header["preprocessing"], state),
            data=DataConfig.model_validate(header["data"]),
            **{name: header[name] for name in (*WORDS, *LATER) if name in header},
        )


def one_hot(labels: Labels, classes: int) -> Targets:
    """Hard labels as distributions, `[N]` to `[N, K]` float32."""
    return torch.nn.functional.one_hot(labels, classes).to(torch.float32)


def load(path: str | Path) -> SyntheticSet:
    """The distilled set in `path`: a file, or a run folder that holds `synthetic.safetensors`."""
    return SyntheticSet.load(path)
