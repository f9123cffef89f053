"""NCFM (Dataset Distillation with Neural Characteristic Function, arXiv 2502.20653): matches characteristic functions
of features."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ..runtime.seeds import derive, rng
from ..runtime.shapes import Features, Params, Scalar
from .class_matching import (
    ExpertFeatureMatching,
    Pairs,
    entropies,
    real_features,
    row,
    synthetic_features,
)
from .method import Method
from .outer_step import Setup, StepSettings, StepWork, of_class
from .tgdd import EXPERT
from .unroll import MetaGradient, Variables

TINY = 1e-12
"""Added under the square root, whose derivative would be infinite where both sides agree."""


class CharacteristicMatching(ExpertFeatureMatching):
    """Σ_c `scale` · mean_k √(½ (|Φr| − |Φs|)² + |Φr| |Φs| − Re Φr Re Φs − Im Φr Im Φs), Φ = mean exp(i ⟨t_k, h⟩).

    h are the features, each normalised to length 1, of a network between the first and the last row of an expert: l θ_0
    + (1 − l) θ_E, l uniform in (0, 1). The frequencies t_k ~ N(0, I) are drawn in every step. `calibration` is the
    weight of an additional cross-entropy of an expert's last row: in the same step, or, with per-class steps, in
    further steps after all classes have been matched.
    """

    family: ClassVar[str] = "characteristic function matching"
    loss_name: ClassVar[str] = "characteristic function discrepancy"
    passes: ClassVar[int] = 2
    about: ClassVar[str] = (
        "Each outer step takes a network between the beginning and the end of an expert, and moves the images of each "
        "class so that the characteristic function of their features comes nearer to that of real ones."
    )
    batch_real: int = Field(default=1024, ge=1)
    """Real images of each class per outer step; all if there are fewer."""
    most_synthetic: int = Field(default=10_000, ge=1)
    """Largest number of synthetic images of each class per outer step."""
    frequencies: int = Field(default=4096, ge=1)
    """Number of frequencies t_k."""
    scale: float = Field(default=300.0, gt=0)
    """Factor on the mean over the frequencies."""
    calibration: float = Field(default=1.0, ge=0)
    """Weight of the cross-entropy of a trained expert. 0 leaves it out."""

    def usual_settings(self, ipc: int) -> Mapping[str, int | float | str | None]:
        """The published learning rate of images in [0, 1] is 0.001, with two steps of AdamW for each class. Here it is
        converted to one step for ten classes (× √20) and to standardised images (÷ ¼). The published 0.001 of networks
        is that of AdamW, which the protocol of NCFM names; `lr_init` is for SGD, with which the other protocols
        train."""
        lr_img = {"joint": 0.018, "per-class": 0.004}[self.stepping]
        adamw = {"outer_optimiser": "adamw", "outer_decay": 5e-4, "outer_momentum": 0.9}
        return {"iterations": 20_000, "lr_img": lr_img, "lr_init": 0.01, **adamw}

    def work(self, settings: StepSettings, images: int, classes: int) -> StepWork:
        @cache
        def frequencies(features: int) -> Tensor:
            return torch.randn(self.frequencies, features, generator=rng(0, "frequencies"), dtype=torch.float32)

        def loss(real: Features, synthetic: Features) -> Scalar:
            return discrepancy(real, synthetic, frequencies(real.shape[1]).to(real))

        return replace(super().work(settings, images, classes), class_loss=loss)

    def between(self, setup: Setup, iteration: int, seed: int, like: Tensor) -> tuple[Params, Params]:
        """θ between the first and the last row of an expert, and its last row.

        Args:
            setup: What all outer steps of a run share.
            iteration: The outer step, counted from 0.
            seed: Seed of the run.
            like: A tensor of the precision and on the device of the images.
        """
        assert setup.experts is not None
        generator, last = rng(seed, "rows", iteration), setup.experts.epochs
        expert = setup.experts.drawn(generator)
        fraction = float(torch.rand((), generator=generator, dtype=torch.float32))
        first, end = (row(setup, expert, epoch, like) for epoch in (0, last))
        return fraction * first + (1 - fraction) * end, end

    def loss(self, setup: Setup, like: Tensor, iteration: int, seed: int) -> Callable[[Pairs], Scalar]:
        theta, end = self.between(setup, iteration, seed, like)
        calibration = {"joint": self.calibration, "per-class": 0.0}[self.stepping]

        @cache
        def frequencies(features: int) -> Tensor:
            return torch.randn(
                self.frequencies, features, generator=rng(seed, "frequencies", iteration), dtype=torch.float32
            ).to(like)

        def pair_loss(pairs: Pairs) -> Scalar:
            sides = (features(setup.model, theta, pairs) for features in (real_features, synthetic_features))
            parts = [
                discrepancy(real, synthetic, frequencies(real.shape[1])) for real, synthetic in zip(*sides, strict=True)
            ]
            loss = self.scale * torch.stack(parts).sum()
            if calibration == 0:
                return loss
            return loss + calibration * entropies(setup.model, end, {pair.label: pair.synthetic for pair in pairs})

        return pair_loss

    def then(self, setup: Setup, iteration: int, seed: int) -> Sequence[Callable[[Variables], MetaGradient]]:
        """Per-class steps calibrate after all classes have been matched, also class by class."""
        matched = super().then(setup, iteration, seed)
        if self.calibration == 0 or self.stepping == "joint":
            return matched
        labels = range(len(setup.dataset.classes))
        return [*matched, *(partial(self._calibration_gradient, label, setup, iteration, seed) for label in labels)]

    def _calibration_gradient(
        self, label: int, setup: Setup, iteration: int, seed: int, variables: Variables
    ) -> MetaGradient:
        """The cross-entropy of one class and its derivative, with newly drawn images and augmentation."""
        images = variables.images.detach().requires_grad_()
        class_images = images.chunk(len(setup.dataset.classes))[label]
        augmented = of_class(setup, class_images, label, iteration, derive(seed, "calibration"), self.most_synthetic)
        _, end = self.between(setup, iteration, seed, images)
        loss = self.calibration * entropies(setup.model, end, {label: augmented})
        (slope,) = torch.autograd.grad(loss, images)
        return MetaGradient(loss.detach(), images=slope)


def discrepancy(real: Features, own: Features, frequencies: Tensor) -> Scalar:
    """The mean over the frequencies `[k, F]` of the distance between two characteristic functions, in amplitude and in
    phase, with equal weights."""
    (real_cos, real_sin), (own_cos, own_sin) = (_characteristic(each, frequencies) for each in (real, own))
    # ½ (|Φr| − |Φs|)² + |Φr| |Φs| − Re Φr Re Φs − Im Φr Im Φs is ½ |Φr − Φs|², without cancellation.
    return (0.5 * ((real_cos - own_cos).square() + (real_sin - own_sin).square()) + TINY).sqrt().mean()


def _characteristic(features: Features, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary parts `[k]` of mean exp(i ⟨t_k, h⟩), h the features normalised to length 1."""
    angles = features / features.norm(dim=1, keepdim=True).clamp_min(math.sqrt(TINY)) @ frequencies.t()
    return angles.cos().mean(dim=0), angles.sin().mean(dim=0)


PAPER = "Wang et al., Dataset Distillation with Neural Characteristic Function, arXiv 2502.20653, equation of the NCFD"
NCFM = Method(
    name="ncfm",
    paper=f"{PAPER}; frequencies are drawn, not learned, as in the released settings",
    step=CharacteristicMatching(),
    expert=EXPERT.replace(batch=128),
    learn=("images",),
)
"""Published with four sub-images per slot, 20 experts and an outer AdamW."""
