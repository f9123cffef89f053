"""TGDD: distribution matching on the features of trained networks, guided by their trajectories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ..experts.recipe import ExpertRecipe
from ..experts.store import TrajectoryStore
from ..runtime.seeds import rng
from ..runtime.shapes import Scalar
from .class_matching import ExpertFeatureMatching, Pairs, distance_of_means, entropies, row
from .method import Method
from .outer_step import Setup
from .trajectory_matching import AST


class TrajectoryGuidedMatching(ExpertFeatureMatching):
    """Σ_c ‖mean h_a(A_c real_c) − mean h_a(A_c X_c)‖² + α CE(f_b(A_c X_c), c).

    h_a are the features of an expert after a epochs and f_b its logits after b: a uniform in 0 … E, b uniform in
    a … min(a + `ahead`, E).
    """

    family: ClassVar[str] = "trajectory-guided distribution matching"
    loss_name: ClassVar[str] = "distribution distance and cross-entropy"
    passes: ClassVar[int] = 2
    about: ClassVar[str] = (
        "Each outer step draws an epoch of an expert and moves the images of each class so that their mean features "
        "come nearer to those of real ones, and so that the same expert, some epochs later, classifies them correctly."
    )
    alpha: float = Field(default=1.0, ge=0)
    """α, the weight of the cross-entropy."""
    ahead: int = Field(default=6, ge=0)
    """Largest number of epochs between a and b."""

    def usual_settings(self, ipc: int) -> Mapping[str, int | float | str | None]:
        """The published learning rate of images in [0, 1] is 0.01 ipc, with momentum ½ and a step for each class. Here
        it is converted to standardised images (÷ (¼)²), and to one joint step (× 2, without momentum)."""
        rates = {
            "joint": {"lr_img": 2 * 0.16 * ipc, "outer_momentum": 0.0},
            "per-class": {"lr_img": 0.16 * ipc, "outer_momentum": 0.5},
        }
        return {"iterations": 10_000, "lr_init": 0.01, **rates[self.stepping]}

    def epochs(self, experts: TrajectoryStore, iteration: int, seed: int) -> tuple[int, int, int]:
        """Expert, a and b of an outer step.

        Args:
            experts: The store to draw from.
            iteration: The outer step, counted from 0.
            seed: Seed of the run.
        """
        generator, last = rng(seed, "rows", iteration), experts.epochs
        expert = experts.drawn(generator)
        first = int(torch.randint(last + 1, (), generator=generator))
        second = int(torch.randint(first, min(first + self.ahead, last) + 1, (), generator=generator))
        return expert, first, second

    def loss(self, setup: Setup, like: Tensor, iteration: int, seed: int) -> Callable[[Pairs], Scalar]:
        assert setup.experts is not None
        expert, first, second = self.epochs(setup.experts, iteration, seed)
        start, later = (row(setup, expert, epoch, like) for epoch in (first, second))

        def pair_loss(pairs: Pairs) -> Scalar:
            distance = distance_of_means(setup.model, start, pairs)
            if self.alpha == 0:
                return distance
            return distance + self.alpha * entropies(setup.model, later, {pair.label: pair.synthetic for pair in pairs})

        return pair_loss


EXPERT = ExpertRecipe(
    epochs=60,
    lr=0.01,
    momentum=0.9,
    weight_decay=5e-4,
    lr_drop=0.2,
    drops_at=(2 / 3, 5 / 6),
    cutmix=0.5,
)
"""The expert recipe of TGDD, with all operations of DSA."""
PAPER = (
    "TGDD (released code FlyFinley/TGDD 39ac9c2; after DM, arXiv 2110.04181, Algorithm 1): rows a and b of an expert"
)
TGDD = Method(name="tgdd", paper=PAPER, step=TrajectoryGuidedMatching(), expert=EXPERT, learn=("images",))
"""Published with four sub-images per slot and standardised data; it starts from real images."""
AST_TGDD = TGDD.replace(
    name="ast-tgdd",
    paper="TGDD on the smooth experts of AST (arXiv 2310.10541, Algorithm 1); a combination of ours",
    expert=AST.recipe.replace(epochs=60),
)
