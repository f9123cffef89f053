"""Common code of the methods that compare features of real and synthetic images class by class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..autodiff.dispatch import engine_of
from ..models.flat import FlatModel
from ..runtime.shapes import Batch, Features, Params, Scalar
from .outer_step import OuterStep, Pair, Setup, StepSettings, StepWork
from .unroll import MetaGradient, Variables

TOGETHER = 1024
"""Largest number of images in one forward pass, unless a single class has more."""
Pairs = Sequence[Pair]


class ClassMatching(OuterStep):
    """Σ_c of a loss on real and synthetic images of class c, both under one augmentation.

    The loss is a sum over classes, so they pass through the network in groups, and memory does not grow with their
    number.
    """

    batch_real: int = Field(default=256, ge=1)
    """Real images of each class per outer step; all if there are fewer."""

    derives: ClassVar[tuple[str, ...]] = ("images",)
    passes: ClassVar[int] = 1
    """How often a synthetic image passes through a network in one step."""

    @property
    def most(self) -> int | None:
        """Largest number of synthetic images of each class per outer step; None for all of them."""
        return None

    def within(self, images: int, classes: int) -> Self:
        return self.replace(batch_real=min(self.batch_real, max(1, images // classes)))

    def work(self, settings: StepSettings, images: int, classes: int) -> StepWork:
        ipc = images // classes
        views = min(ipc, self.most or ipc) * settings.texture.samples
        synthetic, real, classes_per_pass = classes * views, classes * self.batch_real, self._classes_per_pass(views)
        return StepWork(
            forward=real,
            backward=self.passes * synthetic,
            augmented=synthetic + real,
            at_once=min(classes_per_pass, classes) * max(self.batch_real, self.passes * views),
            groups=-(-classes // classes_per_pass),
        )

    def _classes_per_pass(self, views: int) -> int:
        """Number of classes per forward pass, each with `views` views of its synthetic images."""
        return max(1, TOGETHER // max(self.batch_real, views))

    def loss(self, setup: Setup, like: Tensor, iteration: int, seed: int) -> Callable[[Pairs], Scalar]:
        """The loss of one outer step, as a function of the pairs of some classes: the sum over them, differentiable in
        their synthetic images. Everything that is drawn once per step is drawn here.

        Args:
            setup: What all outer steps of a run share.
            like: A tensor of the precision and on the device of the images.
            iteration: The outer step, counted from 0.
            seed: Seed of the run.
        """
        raise NotImplementedError

    def __call__(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> MetaGradient:
        return self._gradient_of_classes(range(len(setup.dataset.classes)), setup, iteration, seed, variables)

    def _gradient_of_classes(
        self, labels: Sequence[int], setup: Setup, iteration: int, seed: int, variables: Variables
    ) -> MetaGradient:
        """The loss of some classes, and its derivative, which is zero for the images of all other classes."""
        images = variables.images.detach()
        class_images = [part.clone().requires_grad_() for part in images.chunk(len(setup.dataset.classes))]
        views = min(len(class_images[0]), self.most or len(class_images[0])) * setup.settings.texture.samples
        loss_of, loss = self.loss(setup, images, iteration, seed), images.new_zeros(())
        slopes = [torch.zeros_like(part) for part in class_images]
        for group in torch.tensor(labels).split(self._classes_per_pass(views)):
            group_labels = group.tolist()
            pairs = [
                Pair.drawn(setup, class_images[label], label, iteration, seed, self.batch_real, self.most)
                for label in group_labels
            ]
            value = loss_of(pairs)
            for label, slope in zip(
                group_labels, torch.autograd.grad(value, [class_images[label] for label in group_labels]), strict=True
            ):
                slopes[label] = slope
            loss = loss + value.detach()
        return MetaGradient(loss, images=torch.cat(slopes))


class ExpertFeatureMatching(ClassMatching):
    """Class matching on networks of one expert, with at most `most_synthetic` synthetic images of each class; pixels
    are clipped to their range. `stepping` selects one step of the optimiser for all classes, or one for each."""

    needs_experts: ClassVar[bool] = True
    clips: ClassVar[bool] = True
    of_experts: ClassVar[str] = "Outer steps compare features of these networks, early and late in their training."
    batch_real: int = Field(default=128, ge=1)
    """Real images of each class per outer step; all if there are fewer."""
    most_synthetic: int = Field(default=200, ge=1)
    """Largest number of synthetic images of each class per outer step, drawn for each step."""
    stepping: Literal["joint", "per-class"] = "joint"
    """joint: one step of the optimiser along the gradient summed over the classes. per-class: one step for each class
    in turn, as in the released programs, in which momentum moves the images of the other classes too; it needs their
    learning rates, which a preset for joint steps does not have. With SGD, joint steps at a learning rate of lr_img /
    (1 − momentum) without momentum are nearly equivalent."""

    @property
    def most(self) -> int | None:
        return self.most_synthetic

    def _classes_per_pass(self, views: int) -> int:
        return {"joint": super()._classes_per_pass(views), "per-class": 1}[self.stepping]

    def __call__(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> MetaGradient:
        classes = {"joint": len(setup.dataset.classes), "per-class": 1}[self.stepping]
        return self._gradient_of_classes(range(classes), setup, iteration, seed, variables)

    def then(self, setup: Setup, iteration: int, seed: int) -> Sequence[Callable[[Variables], MetaGradient]]:
        if self.stepping == "joint":
            return ()
        return [
            partial(self._gradient_of_classes, [label], setup, iteration, seed)
            for label in range(1, len(setup.dataset.classes))
        ]


def real_features(model: FlatModel, theta: Params, pairs: Pairs) -> list[Features]:
    """Features of each pair's real images, as constants, all in one pass."""
    with torch.no_grad():
        return _features(model, theta, [pair.real for pair in pairs])


def synthetic_features(model: FlatModel, theta: Params, pairs: Pairs) -> list[Features]:
    """Features of each pair's synthetic images, all in one pass."""
    return _features(model, theta, [pair.synthetic for pair in pairs])


def _features(model: FlatModel, theta: Params, batches: Sequence[Batch]) -> list[Features]:
    features = engine_of(model).features(theta, torch.cat(list(batches)))
    return list(features.split([len(batch) for batch in batches]))


def distance_of_means(model: FlatModel, theta: Params, pairs: Pairs) -> Scalar:
    """Σ_c of the squared distance between the mean features of real and of synthetic images."""
    real, synthetic = (
        torch.stack([each.mean(dim=0) for each in features(model, theta, pairs)])
        for features in (real_features, synthetic_features)
    )
    return (synthetic - real).square().sum()


def entropies(model: FlatModel, theta: Params, synthetic: Mapping[int, Batch]) -> Scalar:
    """Σ_c of the mean cross-entropy of each class's synthetic images, which are keyed by the class index."""
    losses = []
    for label, features in zip(synthetic, _features(model, theta, list(synthetic.values())), strict=True):
        logits = model.head(theta, features)
        losses.append(cross_entropy(logits, torch.full((len(logits),), label, device=logits.device)))
    return torch.stack(losses).sum()


def row(setup: Setup, expert: int, epoch: int, like: Tensor) -> Params:
    """θ* of an expert after `epoch` epochs, in the precision and on the device of `like`."""
    assert setup.experts is not None, "a method that needs experts has a recipe for them"
    return setup.experts.rows(expert, epoch, epoch + 1)[0].to(like.device, like.dtype)
