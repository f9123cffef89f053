"""The training recipe of an expert, and the measurements during its training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_serializer

from ..data.augmentation import STRATEGY, Strategy
from ..runtime.config import FINITE, Record, Share


@dataclass(frozen=True)
class ExpertCurve:
    """Measurements of one expert, one number per epoch, epochs 1 … E; the lists grow during training."""

    train_accuracy: list[float] = field(default_factory=list)
    """Percent, on the augmented training batches, measured during training."""
    test_accuracy: list[float] = field(default_factory=list)
    """Percent, on the test images; reported, never used to choose anything."""
    step_squared: list[float] = field(default_factory=list)
    """‖θ*_e − θ*_{e−1}‖²: AST's measure of smoothness."""


class ExpertRecipe(Record):
    """MTT's expert by default (arXiv 2203.11932, section 4); AST's adds momentum, weight decay, a drop of the learning
    rate, loss clipping and a gradient penalty, FTD's adds sharpness-aware training."""

    model_config = FINITE
    renamed: ClassVar[Mapping[str, str]] = {
        "clip_epochs": "loss_warmup_epochs",
        "clip_start": "loss_warmup_start",
        "grad_norm": "max_grad_norm",
        "sharpness": "sam_rho",
    }

    epochs: int = Field(default=50, ge=1)
    """E, the number of training epochs. E + 1 checkpoints are stored."""
    batch: int = Field(default=256, ge=1)
    """Batch size."""
    optimiser: Literal["sgd", "adam"] = "sgd"
    """Optimiser of the experts."""
    lr: float = Field(default=0.01, gt=0)
    """Learning rate."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum of SGD, from 0 to below 1. Adam does not read it: its β₁ is 0.9."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay: this factor times the parameters is added to the gradient."""
    lr_drop: float = Field(default=1.0, gt=0, le=1)
    """Factor on the learning rate after E//2 + 2 epochs, above 0 and at most 1; never with 4 epochs or
    fewer. The momentum buffer is reset there, as in the released code. 1 means no drop."""
    drops_at: tuple[Share, ...] = ()
    """Fractions of the epochs after each of which the learning rate is multiplied by lr_drop, without a reset of the
    optimiser, in place of the single drop; (⅔, ⅚) for the experts of tgdd and ncfm. It has no effect if lr_drop is 1.
    Default: the single drop."""
    loss_warmup_start: float = Field(default=0.5, gt=0, le=1)
    """Factor on the cross-entropy in the first epoch of the warm-up (AST's clipping loss), above 0 and at most 1. It
    rises to 1 in equal steps. It has no effect if loss_warmup_epochs is 0."""
    loss_warmup_epochs: int | None = Field(default=0, ge=0)
    """Number of epochs of the loss warm-up (AST's clipping loss). 0 means none, None a fifth of the epochs, rounded
    up."""
    penalty: float = Field(default=0.0, ge=0)
    """λ, the weight of the gradient penalty in the loss. 0 means none."""
    penalty_form: Literal["image", "pixel"] = "image"
    """What the norm of the gradient penalty is taken over. image (corrected): each augmented image; pixel (as
    released): the channels of each pixel, without augmentation. It has no effect if penalty is 0."""
    max_grad_norm: float = Field(default=0.0, ge=0)
    """Largest norm of the gradient; a larger gradient is scaled down to it. 0 means no limit."""
    sam_rho: float = Field(default=0.0, ge=0)
    """ρ of sharpness-aware training (GSAM, arXiv 2203.08065): the length of its ascent step. 0 means ordinary
    training."""
    adaptive_sam: bool = False
    """Use the adaptive ascent step e = ρ w² ∘ g / ‖|w| ∘ g‖ (ASAM, arXiv 2102.11600) in place of e = ρ g / ‖g‖. It has
    no effect if sam_rho is 0."""
    surrogate_gap: float = Field(default=0.0, ge=0)
    """α of GSAM, the weight of the surrogate gap: how much of the gradient component orthogonal to that of the ascent
    point is subtracted. It has no effect if sam_rho is 0."""
    augmentation: Strategy = STRATEGY
    """Augmentations, joined by underscores: color, crop, cutout, flip, scale, rotate (DSA, differentiable Siamese
    augmentation). An empty text means none."""

    cutmix: float = Field(default=0.0, ge=0, le=1)
    """Fraction of the batches to which cutmix is applied after the augmentation, from 0 to 1."""

    @model_serializer(mode="wrap")
    def _omit_unused_later_fields(self, handler: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        """Omit unused fields that were added later, so that stores of earlier versions keep their names. The length of
        the clipping loss is written as a number, so that a file states what was trained."""
        later = ("sam_rho", "adaptive_sam", "surrogate_gap", "drops_at", "cutmix")
        fields = handler(self) | {"loss_warmup_epochs": self.clipped_epochs}
        return {name: value for name, value in fields.items() if value or name not in later}

    def unread(self) -> tuple[str, ...]:
        idle = {
            ("momentum",): self.optimiser == "adam",
            ("drops_at",): self.lr_drop == 1,
            ("loss_warmup_start",): not self.clipped_epochs,
            ("penalty_form",): not self.penalty,
            ("adaptive_sam", "surrogate_gap"): not self.sam_rho,
        }
        return tuple(name for names, holds in idle.items() if holds for name in names)

    def __eq__(self, other: object) -> bool:
        """Recipes of the same training are equal, whether the length of the clipping loss is a number or a fifth."""
        return isinstance(other, ExpertRecipe) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.digest())

    @property
    def clipped_epochs(self) -> int:
        """Length of the clipping loss in epochs: the given one, or a fifth of all epochs, rounded up."""
        if self.loss_warmup_epochs is None:
            return math.ceil(self.epochs / 5)
        return self.loss_warmup_epochs

    @property
    def drop_epoch(self) -> int:
        """The epoch, counted from 0, from which the dropped learning rate holds, where there are no `drops_at`."""
        return self.epochs // 2 + 2

    def starts_anew(self, epoch: int) -> bool:
        """Whether the optimiser is reset before `epoch`, counted from 0: only at the single drop, as released.

        Args:
            epoch: Counted from 0.
        """
        return not self.drops_at and self.lr_drop != 1 and epoch == self.drop_epoch

    def clip(self, epoch: int) -> float:
        """c_e: the factor on the cross-entropy in `epoch`, counted from 0.

        Args:
            epoch: Counted from 0.
        """
        if epoch >= self.clipped_epochs:
            return 1.0
        return self.loss_warmup_start + (1 - self.loss_warmup_start) * epoch / self.clipped_epochs

    def rate(self, epoch: int) -> float:
        """The learning rate in `epoch`, counted from 0.

        Args:
            epoch: Counted from 0.
        """
        if self.drops_at:
            return self.lr * self.lr_drop ** sum(epoch >= round(share * self.epochs) for share in self.drops_at)
        if epoch < self.drop_epoch:
            return self.lr
        return self.lr * self.lr_drop
