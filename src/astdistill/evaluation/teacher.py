"""A teacher: a trained network that labels the images that other networks are trained on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from pydantic import Field

from ..autodiff.dispatch import engine_of
from ..experts.store import TrajectoryStore
from ..models.flat import FlatModel
from ..models.registry import build_model
from ..runtime.config import Record
from ..runtime.errors import InputError
from ..runtime.shapes import Batch, Images, Logits, Params

TOGETHER = 1000
"""Images in one forward pass."""


class TeacherInfo(Record):
    """Which network labelled the images, and how."""

    network: str
    epochs: int = Field(ge=0)
    """Epochs that it was trained for, on all real images."""
    accuracy: float | None = None
    """Its accuracy on the test images in percent; None where nobody measured it."""
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Its logits are divided by it before the softmax: above 1 the labels are softer."""

    @property
    def text(self) -> str:
        """The teacher as text, such as 'convnet-d3 (15 epochs, test 52.0 %, temperature 1)'."""
        accuracy = "" if self.accuracy is None else f"test {self.accuracy:.1f} %, "
        epochs = f"{self.epochs} epoch{'s' * (self.epochs != 1)}"
        return f"{self.network} ({epochs}, {accuracy}temperature {self.temperature:g})"


@dataclass(frozen=True)
class Teacher:
    """A network with the parameters of an expert at its last epoch."""

    info: TeacherInfo
    theta: Params
    """Its parameters `[P]`, on the CPU."""
    shape: tuple[int, int, int]
    classes: int
    data: str
    """`Dataset.fingerprint` of its training data."""

    @staticmethod
    def of(experts: TrajectoryStore, temperature: float = 1.0) -> Teacher:
        """The first expert of a store, at the last epoch that its file holds. Raises InputError where there is none,
        and for one that has not been trained at all."""
        numbers = experts.experts()
        if not numbers or not (epochs := experts.trained_epochs(numbers[0])):
            raise InputError(
                f"{experts.folder} holds no trained expert that could be a teacher; train some with: "
                "astdistill experts PRESET"
            )
        identity, accuracies = experts.identity, experts.first(1).curves(epochs)[0].test_accuracy
        accuracy = accuracies[epochs - 1] if len(accuracies) >= epochs else None
        info = TeacherInfo(network=identity.model, epochs=epochs, accuracy=accuracy, temperature=temperature)
        theta = experts.rows(numbers[0], epochs, epochs + 1)[0].to("cpu", torch.float32)
        return Teacher(info, theta, identity.shape, len(identity.classes), identity.fingerprint)

    def at(self, temperature: float) -> Teacher:
        """The same teacher with labels at another temperature."""
        return replace(self, info=self.info.replace(temperature=temperature))

    @property
    def content(self) -> str:
        """Network, hash of the parameters and temperature: all that its labels depend on."""
        digest = hashlib.sha256(self.theta.contiguous().numpy().tobytes()).hexdigest()[:16]
        return f"{self.info.network} {digest} at {self.info.temperature:g}"

    def check(self, fingerprint: str) -> None:
        """Raise InputError unless it was trained on the data of that fingerprint."""
        if fingerprint != self.data:
            raise InputError(
                f"The teacher {self.info.text} was trained on other data ({self.data}) than these ({fingerprint}); "
                "give the experts of the same data, or evaluate without a teacher: no baseline 'teacher', and a "
                "protocol such as mtt."
            )

    @torch.no_grad()
    def labels(self, images: Images) -> Logits:
        """The logits `[N, K]` of the images divided by the temperature, on the device of the images."""
        engine, theta = engine_of(self._model), self.theta.to(images.device)
        parts: list[Batch] = [engine.logits(theta, part) for part in images.split(TOGETHER)]
        return torch.cat(parts) / self.info.temperature

    @cached_property
    def _model(self) -> FlatModel:
        """Cached: a protocol whose teacher labels every batch uses the network thousands of times."""
        return FlatModel(build_model(self.info.network, self.shape, self.classes))

    def __getstate__(self) -> dict[str, Any]:
        """The fields without the cached network, which another process builds itself."""
        return {each.name: getattr(self, each.name) for each in fields(self)}
