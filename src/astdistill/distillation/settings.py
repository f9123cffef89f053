"""The settings of a distillation, and the checks of data, experts, method and settings before the first outer step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_serializer

from ..data.augmentation import STRATEGY, Strategy
from ..data.dataset import Dataset
from ..data.preprocessing import MIXING
from ..data.textures import TextureSpec
from ..experts.store import TrajectoryStore
from ..methods.method import Method
from ..methods.outer_step import TrajectoryMatching
from ..runtime.config import FINITE, Record
from ..runtime.errors import InputError

OF_THE_STEP: dict[str, Any] = {
    "inner_steps": 20,
    "matched_epochs": 2,
    "max_start_epoch": 20,
    "batch_syn": None,
    "trajectories": 1,
}
"""Settings of the first version that now belong to `TrajectoryMatching`, with their names and defaults of that time.
The digests of runs still count them among the settings."""


def unread(written: Mapping[str, Any], method: Method) -> dict[str, Any]:
    """The settings of the first version that the outer step of a method does not have."""
    step_fields = method.step.first_written()
    return {name: written[name] for name in OF_THE_STEP if name in written and name not in step_fields}


def first_written(
    method: Method, settings: DistillSettings, former: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The method and the settings in the form of the first version, in which the numbers of the outer step were
    settings.

    `former` holds settings that the step does not have, if the run did not use their defaults.
    """
    method_fields, step_fields = method.first_written(), method.step.first_written()
    settings_fields = OF_THE_STEP | settings.first_written() | unread(former, method)
    settings_fields |= {name: step_fields.pop(name) for name in OF_THE_STEP if name in step_fields}
    method_fields["step"] = step_fields
    if type(method.step) is TrajectoryMatching:
        del method_fields["step"]  # every method of the first version had this step
    return method_fields, settings_fields


LATER: dict[str, Any] = {"factor": 1, "outer_decay": 0.0, "plateau": 0}
"""Settings that earlier versions did not have, with their defaults."""


class DistillSettings(Record):
    """Settings of the outer loop, for any method; a preset has its own values."""

    model_config = FINITE
    gone: ClassVar[Mapping[str, str]] = {
        old: f"method.replace(step=TrajectoryMatching({TrajectoryMatching.renamed.get(old, old)}=...))"
        for old in OF_THE_STEP
    }

    iterations: int = Field(default=5000, ge=1)
    """Number of outer steps. A larger number later continues a finished run."""
    lr_img: float = Field(default=1000.0, gt=0)
    """Learning rate of the synthetic images."""
    lr_lr: float = Field(default=1e-5, ge=0)
    """Learning rate of η, the learned learning rate of the student. 0 keeps η constant."""
    lr_targets: float = Field(default=10.0, ge=0)
    """Learning rate of the labels, for methods that learn them."""
    lr_init: float = Field(default=0.01, gt=0)
    """η₀, the initial value of the student's learning rate η."""
    outer_optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimiser of images, labels and η. The published learning rates are for sgd; those of ncfm are for adamw, and
    those of rat-bptt and at-bptt for adam."""
    outer_decay: float = Field(default=0.0, ge=0)
    """Weight decay of the outer optimiser, for adamw only: each step multiplies all learned tensors by 1 − learning
    rate × this value."""
    outer_momentum: float = Field(default=0.5, ge=0, lt=1)
    """Momentum of the outer optimiser, from 0 to below 1: of SGD, or β₁ of Adam and AdamW (β₂ is 0.999)."""
    targets_momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of the outer optimiser for learned labels, from 0 to below 1."""
    outer_grad_norm: float = Field(default=0.0, ge=0)
    """Largest norm of the meta-gradient, for the images and for the labels separately; larger gradients are scaled down
    to it. 0 means no limit."""
    plateau: int = Field(default=0, ge=0)
    """Halve the learning rates of what is learned after more than this many outer steps in a row without a lower loss
    (by 0.01 %). 0 means never."""
    augmentation: Strategy = STRATEGY
    """Augmentations of the student, joined by underscores: color, crop, cutout, flip, scale, rotate (DSA,
    differentiable Siamese augmentation). An empty text means none."""
    canvas: int = Field(default=1, ge=1)
    """Values above 1 distil textures: each image becomes a periodic canvas k times as high and as wide, from which the
    student sees random crops; it is initialised from k² images. 1 means ordinary images."""
    canvas_samples: int = Field(default=1, ge=1)
    """Random crops of each canvas per training step, of the student and in evaluation."""
    factor: int = Field(default=1, ge=1)
    """Values above 1 store r × r sub-images in each image; each is enlarged to the full size before a network sees it,
    and each image is initialised from r² reduced images. 1 means ordinary images."""
    max_experts: int | None = Field(default=None, ge=1)
    """Use only the first N experts of the store. Default: all."""
    max_skips: int = Field(default=20, ge=1)
    """Stop the run after this many outer steps in a row that fail, as when the loss is not finite."""
    max_passes: int = Field(default=1000, ge=1)
    """Stop the run after this many outer steps in a row that the method leaves out by its loss threshold."""
    validate_every: int = Field(default=0, ge=0)
    """Outer steps between evaluations on the validation images, always by the protocol mtt;
    the set with the highest accuracy there is saved. 0 means no validation."""
    validate_epochs: int = Field(default=300, ge=1)
    """Training epochs of each network in such a validation."""
    validate_networks: int = Field(default=2, ge=1)
    """Networks trained in each such validation."""
    checkpoint_seconds: float = Field(default=20.0, ge=0)
    """Shortest time between two checkpoints, in seconds; a run that is stopped saves one, too. Results do not
    depend on it."""
    snapshots: bool = True
    """Save the images after 0, 5, 10, 20, 30, 50, 100, … outer steps (at most 1000 of a set), and how the first images
    were chosen, for the report."""

    @model_serializer(mode="wrap")
    def _omit_later_defaults(self, handler: Callable[[DistillSettings], dict[str, Any]]) -> dict[str, Any]:
        """Omit later settings with their default values, so that runs of earlier versions keep their keys."""
        return {name: value for name, value in handler(self).items() if name not in LATER or value != LATER[name]}

    def unread(self) -> tuple[str, ...]:
        return () if self.validate_every else ("validate_epochs", "validate_networks")

    @property
    def texture(self) -> TextureSpec:
        """The layout of the stored images."""
        return TextureSpec(canvas=self.canvas, samples=self.canvas_samples, factor=self.factor)


def check(
    dataset: Dataset, experts: TrajectoryStore | None, method: Method, settings: DistillSettings, ipc: int
) -> None:
    """Raise InputError, before anything is written, if data, experts, method and settings do not fit together."""
    check_data(dataset, method, settings, ipc)
    if experts is None:
        check_settings(method, settings, None)
        return
    check_settings(method, settings, experts.epochs, f"the experts in {experts.folder} have")
    _check_experts(dataset, experts)


def check_data(dataset: Dataset, method: Method, settings: DistillSettings, ipc: int) -> None:
    """Raise InputError if the data cannot be distilled with this method and these settings; no experts are needed."""
    dataset.check_ipc(ipc)
    method.init.check(dataset, ipc * settings.texture.cells)
    check_slots(dataset.shape, dataset.preprocessing.kind, settings)
    check_canvas(dataset.preprocessing.kind, method, settings)
    if settings.validate_every and dataset.validation is None:
        raise InputError(
            "Evaluation during the distillation needs images held out of the training data; load them with "
            "--data.validation 0.1, or set --distill.validate-every 0. Test images are never used to choose."
        )


def check_canvas(whiten: str, method: Method, settings: DistillSettings) -> None:
    """Raise InputError if images with that whitening cannot be canvases, because the method clips their pixels."""
    if settings.canvas > 1 and method.step.clips and whiten in MIXING:
        raise InputError(
            f"--distill.canvas {settings.canvas} was given with {MIXING[whiten]} whitening, but method "
            f"'{method.name}' clips pixels to [0, 1], which whitened pixels exceed; load the data with "
            "--data.whiten standard, or set --distill.canvas 1."
        )


def check_slots(shape: tuple[int, int, int], whiten: str, settings: DistillSettings) -> None:
    """Raise InputError if images of that shape (C, H, W) and whitening cannot be slots of several sub-images."""
    factor, (_, height, width) = settings.factor, shape
    if factor == 1:
        return
    if height % factor or width % factor:
        raise InputError(
            f"--distill.factor {factor} was given, but images of {height} × {width} pixels do not divide into {factor} "
            f"× {factor} parts; choose a factor that divides both sides, such as 2, or 1."
        )
    if whiten in MIXING:
        raise InputError(
            f"--distill.factor {factor} was given with {MIXING[whiten]} whitening, which mixes all pixels of an "
            "image, so that sub-images cannot be shown; load the data with --data.whiten standard, or set "
            "--distill.factor 1."
        )


def check_settings(
    method: Method, settings: DistillSettings, epochs: int | None, epochs_of: str = "the expert recipe has"
) -> None:
    """Raise InputError if settings contradict one another or the experts' number of epochs; neither data nor experts
    are needed."""
    method.step.check(method, settings, epochs, epochs_of)
    _check_learned(method)
    if settings.canvas > 1 and settings.factor > 1:
        raise InputError(
            f"--distill.canvas {settings.canvas} and --distill.factor {settings.factor} were both given, but an image "
            "is either a texture or a slot of sub-images; leave one of them 1."
        )
    if settings.outer_decay and settings.outer_optimiser != "adamw":
        raise InputError(
            f"--distill.outer-decay {settings.outer_decay:g} was given, but the outer {settings.outer_optimiser} has "
            "no weight decay; add --distill.outer-optimiser adamw, or leave the decay 0."
        )
    if settings.canvas_samples > 1 and settings.canvas == 1:
        raise InputError(
            f"{settings.canvas_samples} crops of each canvas were given, but ordinary images are not cropped; add "
            "--distill.canvas 2, or leave out --distill.canvas-samples."
        )


def _check_learned(method: Method) -> None:
    """Raise InputError if a tensor that is to be learned has no derivative, or is named twice."""
    learnable = [*method.step.derives, *method.step.rates()]
    if not method.labels.learnable:
        learnable.remove("targets")
    for index, name in enumerate(method.learn):
        if name in method.learn[:index]:
            raise InputError(f"--method.learn names '{name}' twice; name it once.")
        if name not in learnable:
            raise InputError(
                f"--method.learn {name} was given, but '{method.name}' computes no derivative of it; choose "
                f"--method.learn of {', '.join(learnable) or 'nothing: this method learns none'}."
            )


def _check_experts(dataset: Dataset, experts: TrajectoryStore) -> None:
    identity = experts.identity
    if not len(experts):
        raise InputError(f"{experts.folder} holds no finished expert; train some with: astdistill experts PRESET")
    actual = {
        "shape": dataset.shape,
        "classes": len(dataset.classes),
        "preprocessing": dataset.preprocessing.hash,
        "data": dataset.fingerprint,
    }
    expected = {
        "shape": identity.shape,
        "classes": len(identity.classes),
        "preprocessing": identity.preprocessing,
        "data": identity.fingerprint,
    }
    for name, value in actual.items():
        if value != expected[name]:
            raise InputError(
                f"The experts in {experts.folder} were trained on other data ({name} {expected[name]}) than the set "
                f"'{dataset.name}' given "
                f"here ({name} {value}); load the same data with the same --data options, or train experts on this set."
            )
