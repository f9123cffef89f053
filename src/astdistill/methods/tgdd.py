"""TGDD: distribution matching on the features of trained networks, guided by their trajectories; and the parts that
other matching of feature distributions shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..autodiff.dispatch import engine_of
from ..experts.recipe import ExpertRecipe
from ..experts.store import TrajectoryStore
from ..models.flat import FlatModel
from ..runtime.seeds import rng
from ..runtime.shapes import Batch, Features, Params, Scalar
from .method import Method
from .outer_step import OuterStep, Pair, Setup, StepSettings, StepWork
from .trajectory_matching import AST
from .unroll import MetaGradient, Variables


class ClassMatching(OuterStep):
    """Σ_c of a loss on real and synthetic images of class c, both under one augmentation, on networks of one expert.

    All classes pass through a network together; `stepping` says whether the optimiser then moves once, or once for each
    class.
    """

    needs_experts: ClassVar[bool] = True
    of_experts: ClassVar[str] = "Outer steps compare features of these networks, early and late in their training."
    ignores: ClassVar[tuple[str, ...]] = (
        *("method.estimator", "method.loss", "method.momentum", "method.perturb", "method.sample", "method.weight"),
        *("distill.batch_syn", "distill.inner_steps", "distill.matched_epochs", "distill.max_start_epoch"),
        "distill.trajectories",
    )
    batch_real: int = Field(default=128, ge=1)
    """Real images of each class per outer step; all of a class that has fewer."""
    most_synthetic: int = Field(default=200, ge=1)
    """Largest number of synthetic images of each class per outer step, drawn for each step."""
    stepping: Literal["joint", "per-class"] = "joint"
    """joint: one step of the optimiser along the gradient summed over the classes. per-class: one step for each class
    in turn, as in the released programs, in which momentum moves the images of the other classes too. With SGD, joint
    steps at a learning rate of lr_img / (1 − momentum) without momentum are nearly equivalent."""

    def within(self, images: int, classes: int) -> Self:
        return self.replace(batch_real=min(self.batch_real, max(1, images // classes)))

    def work(self, settings: StepSettings, images: int, classes: int) -> StepWork:
        seen = min(images, classes * self.most_synthetic) * settings.texture.samples
        real = classes * self.batch_real
        groups = {"joint": 1, "per-class": classes}[self.stepping]
        return StepWork(
            forward=real,
            backward=self.passes * seen,
            augmented=seen + real,
            at_once=seen,
            groups=groups,
        )

    passes: ClassVar[int] = 1
    """How often a synthetic image passes through a network in one step."""

    def loss(self, setup: Setup, pairs: Sequence[Pair], iteration: int, seed: int) -> Scalar:
        """The sum over the classes of `pairs`, differentiable in their synthetic images."""
        raise NotImplementedError

    def __call__(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> MetaGradient:
        first = {"joint": len(setup.dataset.classes), "per-class": 1}[self.stepping]
        return self._of_classes(range(first), setup, iteration, seed, variables)

    def then(self, setup: Setup, iteration: int, seed: int) -> Sequence[Callable[[Variables], MetaGradient]]:
        if self.stepping == "joint":
            return ()
        return [
            partial(self._of_classes, [label], setup, iteration, seed) for label in range(1, len(setup.dataset.classes))
        ]

    def _of_classes(
        self, labels: Sequence[int], setup: Setup, iteration: int, seed: int, variables: Variables
    ) -> MetaGradient:
        """The loss of some classes, and its derivative, which is zero in the images of all others."""
        images = variables.images.detach().requires_grad_()
        by_class = images.chunk(len(setup.dataset.classes))
        sizes = self.batch_real, self.most_synthetic
        pairs = [Pair.drawn(setup, by_class[label], label, iteration, seed, *sizes) for label in labels]
        loss = self.loss(setup, pairs, iteration, seed)
        (slope,) = torch.autograd.grad(loss, images)
        return MetaGradient(loss.detach(), images=slope)

    def project(self, setup: Setup, learned: Mapping[str, Tensor]) -> None:
        """Pixels stay within [0, 1]."""
        setup.dataset.preprocessing.clip_(learned["images"])


def real_features(model: FlatModel, theta: Params, pairs: Sequence[Pair]) -> list[Features]:
    """Those of each pair's real images, as constants, all in one pass."""
    with torch.no_grad():
        return _features(model, theta, [pair.real for pair in pairs])


def synthetic_features(model: FlatModel, theta: Params, pairs: Sequence[Pair]) -> list[Features]:
    """Those of each pair's synthetic images, all in one pass."""
    return _features(model, theta, [pair.synthetic for pair in pairs])


def _features(model: FlatModel, theta: Params, batches: Sequence[Batch]) -> list[Features]:
    together = engine_of(model).features(theta, torch.cat(list(batches)))
    return list(together.split([len(batch) for batch in batches]))


def entropies(model: FlatModel, theta: Params, synthetic: Mapping[int, Batch]) -> Scalar:
    """Σ_c of the mean cross-entropy of each class's synthetic images, which are given by the number of the class."""
    losses = []
    for label, features in zip(synthetic, _features(model, theta, list(synthetic.values())), strict=True):
        logits = model.head(theta, features)
        losses.append(cross_entropy(logits, torch.full((len(logits),), label, device=logits.device)))
    return torch.stack(losses).sum()


def drawn_expert(experts: TrajectoryStore, generator: torch.Generator) -> int:
    """One of the experts, each as likely."""
    numbers = experts.experts()
    return numbers[int(torch.randint(len(numbers), (), generator=generator))]


def row(setup: Setup, expert: int, epoch: int, like: Tensor) -> Params:
    """θ* of an expert after so many epochs, in the precision of `like`."""
    assert setup.experts is not None, "a method that needs experts has a recipe for them"
    return setup.experts.rows(expert, epoch, epoch + 1)[0].to(like.device, like.dtype)


class TrajectoryGuidedMatching(ClassMatching):
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
        """The published learning rate of images in [0, 1] is 0.01 ipc, with momentum ½ and a step for each class; here
        it is that of standardised images (÷ (¼)²), and of one joint step (× 2, without momentum)."""
        rates = {
            "joint": {"lr_img": 2 * 0.16 * ipc, "outer_momentum": 0.0},
            "per-class": {"lr_img": 0.16 * ipc, "outer_momentum": 0.5},
        }
        return {"iterations": 10_000, "lr_init": 0.01, **rates[self.stepping]}

    def epochs(self, experts: TrajectoryStore, iteration: int, seed: int) -> tuple[int, int, int]:
        """Expert, a and b of an outer step."""
        generator, last = rng(seed, "rows", iteration), experts.epochs
        expert = drawn_expert(experts, generator)
        first = int(torch.randint(last + 1, (), generator=generator))
        second = int(torch.randint(first, min(first + self.ahead, last) + 1, (), generator=generator))
        return expert, first, second

    def loss(self, setup: Setup, pairs: Sequence[Pair], iteration: int, seed: int) -> Scalar:
        assert setup.experts is not None
        expert, first, second = self.epochs(setup.experts, iteration, seed)
        start, later = (row(setup, expert, epoch, pairs[0].synthetic) for epoch in (first, second))
        real = torch.stack([each.mean(dim=0) for each in real_features(setup.model, start, pairs)])
        own = torch.stack([each.mean(dim=0) for each in synthetic_features(setup.model, start, pairs)])
        distance = (own - real).square().sum()
        if self.alpha == 0:
            return distance
        return distance + self.alpha * entropies(setup.model, later, {pair.label: pair.synthetic for pair in pairs})


EXPERT = ExpertRecipe(
    epochs=60,
    lr=0.01,
    momentum=0.9,
    weight_decay=5e-4,
    lr_drop=0.2,
    drops_at=(2 / 3, 5 / 6),
    cutmix=0.5,
)
"""The experts of TGDD, with all of DSA."""
PAPER = (
    "TGDD (released code FlyFinley/TGDD 39ac9c2; after DM, arXiv 2110.04181, Algorithm 1): rows a and b of an expert"
)
TGDD = Method(name="tgdd", paper=PAPER, step=TrajectoryGuidedMatching(), expert=EXPERT, learn=("images",))
"""Published with four sub-images a slot and standardised data, from which it starts."""
AST_TGDD = TGDD.replace(
    name="ast-tgdd",
    paper="TGDD on the smooth experts of AST (arXiv 2310.10541, Algorithm 1); a combination of ours",
    expert=AST.recipe.replace(epochs=60),
)
