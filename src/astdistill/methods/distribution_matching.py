"""DM (Zhao & Bilen, Dataset Condensation with Distribution Matching, arXiv 2110.04181): matches means of features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar

from torch import Tensor

from ..runtime.shapes import Scalar
from .class_matching import ClassMatching, Pairs, distance_of_means
from .method import Method
from .outer_step import Setup


class DistributionMatching(ClassMatching):
    """Σ_c ‖mean f(A_c(real_c)) − mean f(A_c(X_c))‖² (Algorithm 1), f the features of a new random network before its
    linear layer, A_c one augmentation for all images of a class. η is not learned: evaluation uses `lr_init`."""

    family: ClassVar[str] = "distribution matching"
    loss_name: ClassVar[str] = "distribution distance"
    about: ClassVar[str] = (
        "Each outer step draws a network with random parameters and real images, and moves the images of each class so "
        "that their mean features come nearer to the real ones’. The distance is squared and added up over the classes."
    )

    def usual_settings(self, ipc: int) -> Mapping[str, float | str | None]:
        rates = {"lr_img": 10.0 if ipc >= 100 else 1.0, "lr_init": 0.01, "outer_momentum": 0.5}
        return {"iterations": 20_000, **rates}

    def loss(self, setup: Setup, like: Tensor, iteration: int, seed: int) -> Callable[[Pairs], Scalar]:
        return partial(distance_of_means, setup.model, setup.fresh(seed, iteration).to(like.dtype))


PAPER = "Zhao & Bilen, Dataset Condensation with Distribution Matching, arXiv 2110.04181, Algorithm 1"
DM = Method(name="dm", paper=PAPER, step=DistributionMatching(), expert=None, learn=("images",))
"""Random networks only, no experts; published with real initial images and standardised data."""
