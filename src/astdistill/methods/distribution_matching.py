"""DM (Zhao & Bilen, Dataset Condensation with Distribution Matching, arXiv 2110.04181): matches means of features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from pydantic import Field

from ..autodiff.dispatch import engine_of
from ..runtime.shapes import Batch
from .method import Method
from .outer_step import OuterStep, Pair, Setup, StepSettings, StepWork
from .unroll import MetaGradient, Variables

TOGETHER = 1024
"""Images in one forward pass, or those of one class. The loss is a sum over classes, so they can be taken in groups."""


class DistributionMatching(OuterStep):
    """Σ_c ‖mean f(A_c(real_c)) − mean f(A_c(X_c))‖² (Algorithm 1), f the features of a new random network before its
    linear layer, A_c one augmentation for all images of a class. η is not learned: evaluation has `lr_init`."""

    family: ClassVar[str] = "distribution matching"
    loss_name: ClassVar[str] = "distribution distance"
    about: ClassVar[str] = (
        "Each outer step draws a network with random parameters and real images, and moves the images of each class so "
        "that their mean features come nearer to the real ones’. The distance is squared and added up over the classes."
    )
    batch_real: int = Field(default=256, ge=1)
    """Real images of each class per outer step; all of a class that has fewer."""

    def usual_settings(self, ipc: int) -> Mapping[str, float | str | None]:
        rates = {"lr_img": 10.0 if ipc >= 100 else 1.0, "lr_init": 0.01, "outer_momentum": 0.5}
        return {"iterations": 20_000, **rates}

    def within(self, images: int, classes: int) -> Self:
        return self.replace(batch_real=min(self.batch_real, max(1, images // classes)))

    def work(self, settings: StepSettings, images: int, classes: int) -> StepWork:
        seen, real = images * settings.texture.samples, classes * self.batch_real
        at_once = min(seen + real, max(TOGETHER, real // classes))
        groups = -(-classes // self._together(seen // classes))
        return StepWork(forward=real, backward=seen, augmented=seen + real, at_once=at_once, groups=groups)

    def _together(self, looks: int) -> int:
        """How many classes pass through the network together, of which each has so many looks at its own images."""
        return max(1, TOGETHER // max(self.batch_real, looks))

    def __call__(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> MetaGradient:
        theta = setup.fresh(seed, iteration).to(variables.images.dtype)
        by_class = variables.images.detach().chunk(len(setup.dataset.classes))
        own = [images.clone().requires_grad_() for images in by_class]
        together = self._together(len(own[0]) * setup.settings.texture.samples)
        loss, slopes = variables.images.new_zeros(()), []
        for labels in torch.arange(len(own)).split(together):
            pairs = [Pair.drawn(setup, own[at], at, iteration, seed, self.batch_real) for at in labels.tolist()]
            with torch.no_grad():
                wanted = _means(setup, theta, [pair.real for pair in pairs])
            distance = (_means(setup, theta, [pair.synthetic for pair in pairs]) - wanted).square().sum()
            slopes += torch.autograd.grad(distance, [own[label] for label in labels.tolist()])
            loss = loss + distance.detach()
        return MetaGradient(loss, images=torch.cat(slopes))


def _means(setup: Setup, theta: torch.Tensor, classes: list[Batch]) -> torch.Tensor:
    """Mean features `[K, F]` of each class's images, all in one forward pass."""
    features = engine_of(setup.model).features(theta, torch.cat(classes)).split([len(images) for images in classes])
    return torch.stack([each.mean(dim=0) for each in features])


PAPER = "Zhao & Bilen, Dataset Condensation with Distribution Matching, arXiv 2110.04181, Algorithm 1"
DM = Method(name="dm", paper=PAPER, step=DistributionMatching(), expert=None, learn=("images",))
"""Random networks alone, no experts; published with real initial images and standardised data."""
