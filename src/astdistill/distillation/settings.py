"""The numbers of one benchmark setting, and what must hold of data, experts, method and numbers before the first outer
step."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..data.augmentation import STRATEGY, Strategy
from ..data.dataset import Dataset
from ..data.textures import TextureSpec
from ..experts.store import TrajectoryStore
from ..methods.method import Method
from ..runtime.config import FINITE, Record
from ..runtime.errors import InputError


class DistillSettings(Record):
    """How long and how fast to distil; a preset brings its own numbers."""

    model_config = FINITE

    iterations: int = Field(default=5000, ge=1)
    """Outer steps. A finished run is continued by asking for more."""
    inner_steps: int = Field(default=20, ge=1)
    """T: student steps per outer step."""
    matched_epochs: int = Field(default=2, ge=1)
    """M: expert epochs that the student is to cover."""
    max_start_epoch: int = Field(default=20, ge=1)
    """Segments start at an expert epoch below this one."""
    lr_img: float = Field(default=1000.0, gt=0)
    """Outer learning rate of the images."""
    lr_lr: float = Field(default=1e-5, ge=0)
    """Outer learning rate of the learned step size η."""
    lr_targets: float = Field(default=10.0, ge=0)
    """Outer learning rate of learned targets, for methods that learn them."""
    lr_init: float = Field(default=0.01, gt=0)
    """η_0: the student's step size at the start."""
    batch_syn: int | None = Field(default=None, ge=1)
    """Synthetic images per inner step; none means the whole set."""
    trajectories: int = Field(default=1, ge=1)
    """Segments per outer step, each with a student of its own; the step follows the mean of their meta-gradients."""
    outer_optimiser: Literal["sgd", "adam"] = "sgd"
    """What moves images, targets and step size; the published learning rates are those of sgd."""
    outer_momentum: float = Field(default=0.5, ge=0, lt=1)
    """Momentum of the outer SGD; β_1 of the outer Adam, whose β_2 is 0.999."""
    targets_momentum: float = Field(default=0.9, ge=0, lt=1)
    """The same for learned targets."""
    outer_grad_norm: float = Field(default=0.0, ge=0)
    """Longest meta-gradient that a step may follow, in the images and in the targets, each by itself; a longer one is
    scaled down to it. 0 means any."""
    augmentation: Strategy = STRATEGY
    """DSA operations of the student, joined by underscores; empty for none."""
    canvas: int = Field(default=1, ge=1)
    """k above 1 distils textures: each image is a canvas of k × k times the size without borders, of which the student
    sees random circular crops; it starts from k² images. 1 means ordinary images."""
    canvas_samples: int = Field(default=1, ge=1)
    """Crops of each canvas in every inner step, and in every step of an evaluation."""
    max_experts: int | None = Field(default=None, ge=1)
    """Use only the first so many experts of the store."""
    max_skips: int = Field(default=20, ge=1)
    """Outer steps in a row that may fail before the run stops and names the cause."""
    max_passes: int = Field(default=1000, ge=1)
    """Outer steps in a row that a method's threshold may pass over before the run stops and says so."""
    validate_every: int = Field(default=0, ge=0)
    """Outer steps between evaluations on the validation split, which then chooses what is saved; 0 means never."""
    validate_epochs: int = Field(default=300, ge=1)
    """Training epochs of each such evaluation."""
    validate_networks: int = Field(default=2, ge=1)
    """Networks of each such evaluation."""
    checkpoint_seconds: float = Field(default=20.0, ge=0)
    """Least time between two saved states; results do not depend on it."""
    snapshots: bool = True
    """Keep the images at iterations 0, 5, 10, 20, 30, 50, 100, … (at most 1000 of them) and how the first were chosen,
    for the report."""

    @property
    def last_epoch(self) -> int:
        """The last expert epoch whose row a segment can hold."""
        return self.max_start_epoch - 1 + self.matched_epochs

    @property
    def texture(self) -> TextureSpec:
        """What the images lie on."""
        return TextureSpec(canvas=self.canvas, samples=self.canvas_samples)


def check(
    dataset: Dataset, experts: TrajectoryStore | None, method: Method, settings: DistillSettings, ipc: int
) -> None:
    """Raise InputError, before anything is written, where data, experts, method and settings do not fit together."""
    check_data(dataset, method, settings, ipc)
    if experts is None:
        check_settings(method, settings, None)
        return
    check_settings(method, settings, experts.epochs, f"the experts in {experts.folder} have")
    _check_experts(dataset, experts)


def check_data(dataset: Dataset, method: Method, settings: DistillSettings, ipc: int) -> None:
    """Raise InputError where the data cannot be distilled as asked; no experts are needed."""
    dataset.check_ipc(ipc)
    method.init.check(dataset, ipc * settings.texture.cells)
    if settings.validate_every and dataset.validation is None:
        raise InputError(
            "Evaluation during the distillation needs images held out of the training data; load them with "
            "--data.validation 0.1, "
            "or set --distill.validate-every 0. Test images are never used to choose."
        )


def check_settings(
    method: Method, settings: DistillSettings, epochs: int | None, whose: str = "the expert recipe has"
) -> None:
    """Raise InputError where settings contradict one another or the experts' number of epochs; neither data nor experts
    are needed."""
    method.step.check(method, settings, epochs, whose)
    if settings.canvas_samples > 1 and settings.canvas == 1:
        raise InputError(
            f"{settings.canvas_samples} crops of each canvas were asked for, but ordinary images are seen whole; add "
            f"--distill.canvas 2, "
            f"or leave out --distill.canvas-samples."
        )


def _check_experts(dataset: Dataset, experts: TrajectoryStore) -> None:
    identity = experts.identity
    if not len(experts):
        raise InputError(f"{experts.folder} holds no finished expert; train some with: astdistill experts PRESET")
    found = {
        "shape": dataset.shape,
        "classes": len(dataset.classes),
        "preprocessing": dataset.preprocessing.hash,
        "data": dataset.fingerprint,
    }
    wanted = {
        "shape": identity.shape,
        "classes": len(identity.classes),
        "preprocessing": identity.preprocessing,
        "data": identity.fingerprint,
    }
    for name, value in found.items():
        if value != wanted[name]:
            raise InputError(
                f"The experts in {experts.folder} were trained on other data ({name} {wanted[name]}) than the set "
                f"'{dataset.name}' given "
                f"here ({name} {value}); load the same data with the same --data options, or train experts on this set."
            )
