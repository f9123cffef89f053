"""The distilled set: images, targets, learning rate, and everything else that is needed to use the file on its own."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from ..runtime.config import FINITE, Record
from ..runtime.errors import DivergedError, InputError
from ..runtime.files import fingerprint, load_tensors, parse_json, reading, save_tensors
from ..runtime.provenance import without_places
from ..runtime.run_dir import RunDir
from ..runtime.shapes import Images, Labels, Scalar, Targets
from .dataset import DataConfig, dimensions
from .preprocessing import Preprocessing
from .textures import TextureSpec

FORMAT = 1
LabelKind = Literal["hard", "soft", "weights"]
"""The kind of targets: distributions; logits of distributions; weights of the classes, 0 or more, that need not add up
to 1."""
WORDS = ("model", "labels", "augmentation", "momentum", "method", "fingerprint", "provenance")
"""Fields that are written to the header of the file unchanged."""
LATER = ("canvas", "canvas_samples", "factor")
"""The same, added later: files of versions without textures lack all of them, files without slots lack `factor`."""
PRIVATE = ("arguments", "machine")
"""Entries of the provenance that `published` removes."""


REMEDY = "take a whole synthetic.safetensors that astdistill wrote"


class _Words(Record):
    """Validates the header of a file; `SyntheticSet` describes the fields."""

    model_config = FINITE

    classes: tuple[str, ...] = Field(min_length=1)
    model: str
    labels: Literal["hard", "soft", "weights"]
    augmentation: str
    momentum: float = Field(ge=0, lt=1)
    method: str
    fingerprint: str
    provenance: dict[str, Any]
    canvas: int = Field(default=1, ge=1)
    canvas_samples: int = Field(default=1, ge=1)
    factor: int = Field(default=1, ge=1)


def restored(path: Path, description: Any, tensors: Mapping[str, Tensor]) -> Preprocessing:
    """The preprocessing stored in `path`. Raises InputError if its parts are missing or inconsistent."""
    with reading(path, "a preprocessing", REMEDY):
        fitted = Preprocessing.restore(description, tensors)
        (channels, *_), size = fitted.shape, math.prod(fitted.shape)
        length = {"zca": size, "rat": 2}.get(fitted.kind, channels)
        shapes = {"std": [channels], "mean": [length], "eigenvalues": [size], "eigenvectors": [size, size]}
        invalid = [
            name
            for name, tensor in fitted.tensors().items()
            if list(tensor.shape) != shapes[name] or not _is_finite(tensor)
        ]
        if invalid or (fitted.std is not None and not bool((fitted.std > 0).all())):
            raise ValueError(f"its {(invalid or ['std'])[0]} is not what it should be")
        if not (isinstance(fitted.statistics, str) and min(fitted.shape) >= 0 and 0 <= fitted.eps < math.inf):
            raise ValueError("its description is not what it should be")
    return fitted


def _is_finite(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(tensor.isfinite().all())


def _inconsistency(loaded: SyntheticSet) -> str:
    """A description of what is inconsistent in a set; '' if nothing is."""
    images, count, classes = loaded.images, len(loaded.images), len(loaded.classes)
    if images.ndim == 4 and (not classes or count % classes):
        return f"images of shape {list(images.shape)} for {classes} classes"
    if mismatch := mismatched(loaded):
        return mismatch
    if not (_is_finite(images) and _is_finite(loaded.targets)):
        return "images or targets that are no finite numbers"
    if loaded.lr.numel() != 1 or not _is_finite(loaded.lr) or float(loaded.lr) <= 0:
        return "a learning rate that is no positive number"
    if any(side % loaded.canvas for side in images.shape[2:]):
        return f"images of shape {list(images.shape)} on a canvas of {loaded.canvas}"
    if any(
        expected not in (0, length) for expected, length in zip(loaded.preprocessing.shape, loaded.shape, strict=True)
    ):
        return f"images of shape {list(loaded.shape)}, and a preprocessing of {list(loaded.preprocessing.shape)}"
    return ""


def _unreadable(header: Mapping[str, Any]) -> str:
    """A description of what `load` would refuse in the header of a file; '' if nothing is."""
    try:
        read = {name: parse_json(json.dumps(value)) for name, value in header.items()}
        _Words.model_validate({name: read[name] for name in ("classes", *WORDS, *LATER) if name in read})
    except ValidationError as error:
        first = error.errors()[0]
        return f"{first['loc'][0]}: {first['msg']}"
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


def mismatched(synthetic: SyntheticSet) -> str:
    """Description of images and targets of which no network can learn, because their shapes do not agree; '' if they
    do."""
    images, count, classes = synthetic.images, len(synthetic.images), len(synthetic.classes)
    if images.ndim != 4 or not images.numel():
        return f"images of shape {list(images.shape)} for {classes} classes"
    if list(synthetic.targets.shape) != [count, classes]:
        return f"targets of shape {list(synthetic.targets.shape)} for {count} images and {classes} classes"
    return ""


@dataclass(frozen=True)
class SyntheticSet:
    """X, Y and η of a distillation, in the preprocessed space of the experts.

    images `[N, C, H, W]` and targets `[N, K]`, float32, N = K × ipc, grouped by class. Hard targets are one-hot rows;
    soft targets are logits, to be passed through a softmax; weights are taken as they are. `lr` is the learned learning
    rate η, a positive scalar.
    `augmentation` is the strategy that the student saw, `momentum` the inner momentum, `model` the name of the student
    network.

    Above a `canvas` k of 1 the images are textures, `[N, C, k H, k W]` on a torus; networks learn from `canvas_samples`
    random circular crops `[C, H, W]` of each in every step. Above a `factor` r of 1 each image is a slot of r × r
    sub-images, which `decoded` enlarges to whole images; networks learn from those.
    """

    images: Images
    """X, `[N, C, H, W]` float32 on any device."""
    targets: Targets
    """Y, `[N, K]` float32."""
    lr: Scalar
    """η, a positive scalar."""
    classes: tuple[str, ...]
    """Names of the classes 0 … K − 1."""
    preprocessing: Preprocessing
    """From pixels in [0, 1] to the space of the images."""
    data: DataConfig
    """The configuration of the real data, for `load_dataset`."""
    model: str
    """The student network, as `build_model` takes it."""
    labels: LabelKind = "hard"
    """The kind of the targets: "hard", "soft" or "weights"."""
    augmentation: str = ""
    """DSA operations joined by underscores; empty for none."""
    momentum: float = 0.0
    """Of the student, 0 … 1."""
    method: str = ""
    """The name of the method."""
    fingerprint: str = ""
    """`Dataset.fingerprint` of the real data; empty if unknown."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Versions, settings and times of the run."""
    canvas: int = 1
    """k: images are k H × k W textures; 1 for ordinary images."""
    canvas_samples: int = 1
    """Crops of each canvas in a training step."""
    factor: int = 1
    """r: each image is a slot of r × r sub-images; 1 for ordinary images."""

    def __repr__(self) -> str:
        """One line: images, shape, classes, labels, network, method."""
        shape = dimensions(self.images.shape[1:])
        details = (f"{len(self.classes)} classes", f"{self.labels} labels", self.model, self.method)
        return f"{type(self).__name__}({len(self.images):,} images of {shape}, {', '.join(filter(None, details))})"

    @property
    def texture(self) -> TextureSpec:
        """The layout of the images: ordinary images, textures or slots."""
        return TextureSpec(canvas=self.canvas, samples=self.canvas_samples, factor=self.factor)

    def decoded(self) -> Self:
        """The set with each sub-image of a slot as a separate image, with the target of the slot; the set itself if
        there are no slots."""
        if self.factor == 1:
            return self
        images, targets = self.texture.decoded(self.images), self.texture.for_each(self.targets)
        return replace(self, images=images, targets=targets, factor=1)

    @property
    def stored_bytes(self) -> int:
        """Bytes stored for training: pixels in their stored type, and targets unless each is a single class. (Class
        numbers, the learning rate and the whitening are not counted.)"""
        labels = 0
        if not self.certain:
            labels = self.targets.numel() * self.targets.element_size()
        return self.images.numel() * self.images.element_size() + labels

    @property
    def digests(self) -> dict[str, str]:
        """Digests of the tensors that networks learn from, by name, as `save` writes them to the file."""
        return {name: fingerprint(tensor.cpu()) for name, tensor in self._training_tensors().items()}

    def _training_tensors(self) -> dict[str, Tensor]:
        return {"images": self.images, "targets": self.targets, "lr": self.lr}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of the input of a network."""
        channels, height, width = self.images.shape[1:]
        return channels, height // self.canvas, width // self.canvas

    @property
    def seen(self) -> int:
        """Images that a network sees in one pass over the set."""
        return len(self.images) * self.texture.looks

    @property
    def ipc(self) -> int:
        """Stored images per class: a slot of several sub-images counts once."""
        return len(self.images) // len(self.classes)

    @property
    def hard_labels(self) -> Labels:
        """The most probable class of every image, `[N]`."""
        return self.targets.argmax(dim=1)

    @property
    def probabilities(self) -> Targets:
        """The targets as distributions over the classes, `[N, K]`; weights as they are."""
        return self.targets.softmax(dim=1) if self.labels == "soft" else self.targets

    @cached_property  # used by every table and file; each evaluation synchronises with the device
    def certain(self) -> bool:
        """Whether every target is a single class: hard labels without smoothing."""
        return self.labels == "hard" and torch.equal(
            self.targets, one_hot(self.hard_labels, len(self.classes)).to(self.targets)
        )

    def unclipped(self) -> Images:
        """The images with the preprocessing inverted, on the CPU, not clipped to [0, 1]; of textures the whole
        canvases."""
        return self.texture.undone(self.images.detach().float().cpu(), self.preprocessing.to("cpu").invert)

    def pixels(self) -> Images:
        """The images with the preprocessing inverted, clipped to [0, 1]; of textures the whole canvases (see
        `TextureSpec.undone`)."""
        return self.unclipped().clamp(0, 1)

    def published(self) -> Self:
        """The set for publication: paths are reduced to names, command line and machine are removed.

        The fingerprint still identifies the data that the set was made from.
        """
        provenance = {name: value for name, value in self.provenance.items() if name not in PRIVATE}
        data = self.data.replace(source=without_places(self.data.source))
        return replace(self, data=data, provenance=without_places(provenance))

    def compact(self) -> Self:
        """The same set without ZCA's matrix, for a file of a few hundred kB.

        It can be evaluated directly on the data that it was made from, whose preprocessing has the matrix. To view its
        images, or to use it on other images, see `completed`.
        """
        return replace(self, preprocessing=self.preprocessing.compact())

    def completed(self, preprocessing: Preprocessing) -> Self:
        """The same set with the whole `preprocessing` of the data that it was made from. Raises InputError for a
        different one.

        Args:
            preprocessing: The preprocessing of the data, as `load_dataset(synthetic.data).preprocessing`.
        """
        if preprocessing.hash != self.preprocessing.hash:
            raise InputError(
                f"The set was made with the preprocessing {self.preprocessing.hash}, not {preprocessing.hash}; load "
                "the data as the set names it: load_dataset(synthetic.data)."
            )
        return replace(self, preprocessing=preprocessing)

    def save(self, path: Path) -> None:
        """Write one safetensors file with everything that is needed to train on, evaluate and view the set. Writing
        nothing, raises DivergedError if a value is not finite, and InputError for a set that `load` would refuse.

        Args:
            path: The file; an existing file is replaced.
        """
        tensors = self._training_tensors()
        for name, tensor in tensors.items():
            if not bool(tensor.isfinite().all()):
                raise DivergedError(
                    f"'{name}' of the distilled set is not finite, so that {path} is left as it is; lower the learning "
                    "rates (--distill.lr-img, --distill.lr-lr, --distill.lr-init) and start in a new folder."
                )
        header = self.header()
        if problem := _inconsistency(self) or _unreadable(header):
            raise InputError(
                f"The set is not saved, because it could not be loaded again ({problem}), so that {path} is left as it "
                "is; change it with dataclasses.replace and save it again."
            )
        tensors |= {f"preprocessing.{name}": tensor for name, tensor in self.preprocessing.tensors().items()}
        save_tensors(path, tensors, header)

    def header(self) -> dict[str, Any]:
        """Everything that is not a tensor, ready for JSON: the header of the file."""
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
            **{name: value for name, value in (("factor", self.factor),) if value != 1},
        }

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The set in `path`, a file or a run folder holding `synthetic.safetensors`. Raises InputError for any other
        file.

        Args:
            path: The file, or the run folder.
        """
        file = Path(path)
        file = RunDir(file).synthetic if file.is_dir() else file
        if not file.exists():
            if RunDir(path).begun:
                raise InputError(RunDir(path).not_finished)
            raise InputError(
                f"There is no file {file}; name the folder of a finished run, or its synthetic.safetensors. "
                "astdistill demo makes one: runs/demo"
            )
        tensors, header = load_tensors(
            file, mend="run the command again that made it, or take another copy of it; see: astdistill verify"
        )
        if header.get("format") != FORMAT or "images" not in tensors:
            raise InputError(
                f"{file} is not a distilled set of format {FORMAT} (it says {header.get('format')!r}); "
                f"name the synthetic.safetensors of a run."
            )
        missing = [
            name
            for name in ("targets", "lr", "classes", "preprocessing", "data", *WORDS)
            if name not in tensors and name not in header
        ]
        if missing:
            raise InputError(
                f"{file} lacks its '{missing[0]}'; take a whole synthetic.safetensors that astdistill wrote."
            )
        state = {
            name.removeprefix("preprocessing."): tensor
            for name, tensor in tensors.items()
            if name.startswith("preprocessing.")
        }
        with reading(file, "a distilled set", REMEDY):
            fields = _Words.model_validate(
                {name: header[name] for name in ("classes", *WORDS, *LATER) if name in header}
            )
            loaded = cls(
                images=tensors["images"],
                targets=tensors["targets"],
                lr=tensors["lr"],
                preprocessing=restored(file, header["preprocessing"], state),
                data=DataConfig.model_validate(header["data"]),
                **dict(fields),
            )
            problem = _inconsistency(loaded)
        if problem:
            raise InputError(f"{file} does not hold a distilled set ({problem}); {REMEDY}.")
        return loaded


def one_hot(labels: Labels, classes: int) -> Targets:
    """Hard labels as distributions, `[N]` to `[N, K]` float32."""
    return torch.nn.functional.one_hot(labels, classes).to(torch.float32)


def load(path: str | Path) -> SyntheticSet:
    """The distilled set in `path`: a file, or a run folder that holds `synthetic.safetensors`."""
    return SyntheticSet.load(path)
