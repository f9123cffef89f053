"""DC, DSA and IDC: match the gradients of the loss on real and on synthetic images of each class, on networks that are
trained along the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from ..autodiff.dispatch import engine_of
from ..data.augmentation import apply, cut_and_mixed, draw
from ..data.synthetic import one_hot
from ..models.flat import FlatModel
from ..runtime.seeds import rng, to_device
from ..runtime.shapes import Batch, Params, Scalar, Targets
from .initialisation import NoiseInit, RealInit
from .method import Method
from .outer_step import OuterStep, Pair, Setup, StepSettings, StepState, StepWork
from .unroll import InnerLoop, MetaGradient, Variables, draw_plan

TINY = 1e-6
"""Added to the product of two norms, as in the released program: a row of zeros then has a distance of 1."""


class GradientMatching(OuterStep):
    """Σ_c D(∇_θ ℓ(A_c real_c), ∇_θ ℓ(A_c X_c)) on one network for `matchings` outer steps (DC, arXiv 2006.05929,
    Algorithm 1).

    D is the sum of 1 − cos over the rows of all weights, where a row holds the weights of one output; biases and the
    scales of normalisation layers are ignored. A network trains on X before each of its outer steps except the first.
    A_c is one augmentation for all images of a class.
    """

    derives: ClassVar[tuple[str, ...]] = ("images",)
    family: ClassVar[str] = "gradient matching"
    loss_name: ClassVar[str] = "gradient distance"
    about: ClassVar[str] = (
        "Each outer step moves the images of each class so that a network’s gradient on them comes nearer in direction "
        "to its gradient on real ones. The network then trains on the images for a while; after some outer steps a new "
        "one takes its place. The distance is added up over the rows of all weights and over the classes, and grows as "
        "a network trains, so single losses scatter."
    )
    batch_real: int = Field(default=256, ge=1)
    """Real images of each class per outer step; all if there are fewer."""
    most_synthetic: int = Field(default=10_000, ge=1)
    """Largest number of synthetic images of each class per outer step, drawn for each step."""
    matchings: int | None = Field(default=None, ge=1)
    """Outer steps per network. Default: the number of images per class (of sub-images, with distill.factor), at most
    50, as published."""
    passes: int | None = Field(default=None, ge=1)
    """Passes over the synthetic images by which the network is trained between two outer steps. Default: 500 divided by
    the number of images per class (of sub-images, with distill.factor), as published."""
    net_lr: float = Field(default=0.01, gt=0)
    """Learning rate of the network, trained by SGD."""
    net_batch: int = Field(default=256, ge=1)
    """Batch size in the training of the network."""

    def usual_settings(self, ipc: int) -> Mapping[str, float | str | None]:
        rates = {"lr_img": 0.1, "lr_init": 0.01, "outer_momentum": 0.5}
        return {"iterations": 1000 * self.life(ipc), "augmentation": "", **rates}

    def life(self, ipc: int) -> int:
        """Number of outer steps per network, at `ipc` images per class.

        Args:
            ipc: Images per class.
        """
        return self.matchings or min(ipc, 50)

    def within(self, images: int, classes: int) -> Self:
        return self.replace(batch_real=min(self.batch_real, max(1, images // classes)))

    def work(self, settings: StepSettings, images: int, classes: int) -> StepWork:
        per_class, samples = min(images // classes, self.most_synthetic), settings.texture.samples
        trained = classes * self.batch_real + self._training_images(images // classes, images * samples)
        return StepWork(
            training_steps=classes,
            batch=per_class * samples,
            kept=0,
            trained=trained,
            trained_at_once=max(self.batch_real, min(self.net_batch, images) * samples),
        )

    def _training_images(self, ipc: int, images_per_pass: int) -> float:
        """Average number of images that the network trains on before one outer step; a pass over X has
        `images_per_pass`."""
        return (1 - 1 / self.life(ipc)) * self._passes(ipc) * images_per_pass

    def _passes(self, ipc: int) -> int:
        return self.passes or max(1, 500 // ipc)

    def begin(self, setup: Setup, variables: Variables, seed: int) -> StepState:
        return StepState({"theta": variables.images.new_zeros(setup.model.size)}, {"age": 0})

    def advance(
        self, setup: Setup, variables: Variables, state: StepState, iteration: int, seed: int
    ) -> tuple[MetaGradient, StepState]:
        age, life = state.counters["age"], self.life(len(variables.images) // len(setup.dataset.classes))
        if age == 0:
            fresh = setup.fresh(seed, iteration).to(variables.images.dtype)
            tensors = {name: torch.zeros_like(tensor) for name, tensor in state.tensors.items()} | {"theta": fresh}
        else:
            tensors = self.trained(setup, variables, state.tensors, iteration, seed)
        gradient = self.matched(setup, tensors["theta"], variables, iteration, seed)
        return gradient, StepState(tensors, {"age": (age + 1) % life})

    def trained(
        self, setup: Setup, variables: Variables, tensors: Mapping[str, Tensor], iteration: int, seed: int
    ) -> dict[str, Tensor]:
        """The parameters of the network and the state of its optimiser, after training on the current X.

        Args:
            setup: What all outer steps of a run share.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and other learned tensors.
            tensors: θ `[P]` as `theta`, and the state of the optimiser.
            iteration: The outer step, counted from 0.
            seed: Seed of the run; random draws depend on it and on the outer step.
        """
        data, settings, count = setup.dataset, setup.settings, len(variables.images)
        steps = self._passes(count // len(data.classes)) * -(-count // self.net_batch)
        plan = draw_plan(
            steps,
            count,
            self.net_batch,
            settings.augmentation,
            data.shape,
            rng(seed, "plan", iteration),
            data.device,
            settings.texture,
        )
        inner = InnerLoop(setup.model, plan, labels=setup.method.labels.kind)
        theta = tensors["theta"]
        for taken in inner.steps(theta, variables.replace(lr=torch.full_like(variables.lr, self.net_lr))):
            theta = taken.theta
        return {"theta": theta}

    def matched(self, setup: Setup, theta: Params, variables: Variables, iteration: int, seed: int) -> MetaGradient:
        """The distance at θ and its derivative in X: the derivative of ∇_θ ℓ along ∂D/∂(∇_θ ℓ), a mixed second
        derivative of ℓ in θ and X.

        Args:
            setup: What all outer steps of a run share.
            theta: θ `[P]` of the network.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and other learned tensors.
            iteration: The outer step, counted from 0.
            seed: Seed of the run; random draws depend on it and on the outer step.
        """
        engine, classes = engine_of(setup.model), len(setup.dataset.classes)
        images = variables.images.detach().requires_grad_()
        loss, augmented, slopes = theta.new_zeros(()), [], []
        for label, members in enumerate(images.chunk(classes)):
            pair = Pair.drawn(setup, members, label, iteration, seed, self.batch_real, self.most_synthetic)
            synthetic = pair.synthetic.detach()
            real_gradient = engine.gradient(theta, pair.real, _class_targets(label, classes, pair.real)).theta
            targets = _class_targets(label, classes, synthetic)
            distance, direction = self.distance(
                setup.model, real_gradient, engine.gradient(theta, synthetic, targets).theta
            )
            loss += distance
            augmented.append(pair.synthetic)
            slopes.append(engine.directional(theta, direction, synthetic, targets, curvature=False).images)
        (slope,) = torch.autograd.grad(augmented, images, slopes)
        return MetaGradient(loss, images=slope)

    def distance(self, model: FlatModel, real: Params, synthetic: Params) -> tuple[Scalar, Params]:
        """D of two gradients, and its derivative with respect to the second.

        Args:
            model: The network, for the positions of its weights in θ.
            real: Gradient on real images, `[P]`.
            synthetic: Gradient on synthetic images, `[P]`.
        """
        loss, along = synthetic.new_zeros(()), torch.zeros_like(synthetic)
        parts = (model.unflatten(each).values() for each in (real, synthetic, along))
        for real_part, synthetic_part, slope in zip(*parts, strict=True):
            if synthetic_part.dim() == 1:
                continue
            r, s = real_part.flatten(1), synthetic_part.flatten(1)
            r_norm, s_norm, dot = r.norm(dim=1), s.norm(dim=1), (r * s).sum(dim=1)
            product = r_norm * s_norm + TINY
            loss += (1 - dot / product).sum()
            # A row of zeros has no direction: the derivative of its norm is taken as zero.
            factor = (dot * r_norm / product.square() / s_norm).masked_fill_(s_norm == 0, 0.0)
            slope.copy_((factor[:, None] * s - r / product[:, None]).view_as(slope))
        return loss, along


class SiameseGradientMatching(GradientMatching):
    """Gradient matching under differentiable Siamese augmentation: one draw for the real and the synthetic images of a
    class (DSA, arXiv 2102.08259, Algorithm 1)."""

    def usual_settings(self, ipc: int) -> Mapping[str, float | str | None]:
        usual = super().usual_settings(ipc)
        return {name: value for name, value in usual.items() if name != "augmentation"}


class RealTrainedGradientMatching(GradientMatching):
    """Σ_c of the L1 distance, or the squared one, of the gradients of all convolutions, on networks that train on real
    images (IDC, arXiv 2205.14959, Algorithm 1).

    Linear layers, biases and the scales of normalisation layers are ignored; a network without convolutions uses its
    linear layers. A network trains on real images, with cutmix, before each of its outer steps except the first.
    """

    clips: ClassVar[bool] = True
    about: ClassVar[str] = (
        "Each outer step moves the images of each class so that a network’s gradient on them comes nearer to its "
        "gradient on real ones. The network then trains on real images for a few steps; after some outer steps a new "
        "one takes its place. The distance is added up over the weights of all convolutions and over the classes."
    )
    batch_real: int = Field(default=64, ge=1)
    """Real images of each class per outer step; all if there are fewer."""
    most_synthetic: int = Field(default=128, ge=1)
    """Largest number of synthetic images of each class per outer step, drawn for each step."""
    matchings: int | None = Field(default=100, ge=1)
    """Outer steps per network. None means the number of images per class, at most 50."""
    passes: int | None = Field(default=1, ge=1)
    """Periods of training between two outer steps, each over net_images images. None means 500."""
    net_batch: int = Field(default=64, ge=1)
    """Batch size in the training of the network."""
    net_images: int = Field(default=500, ge=1)
    """Real images, of all classes, per period of training; all if there are fewer."""
    net_momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum in the training of the network, from 0 to below 1."""
    net_decay: float = Field(default=5e-4, ge=0)
    """Weight decay in the training of the network."""
    cutmix: float = Field(default=0.5, ge=0, le=1)
    """Fraction of the batches to which cutmix is applied, without cutout, in the training of the network, from 0 to
    1."""
    differences: Literal["absolute", "squared"] = "absolute"
    """What of the differences of the gradients is added up: their absolute values, as published for MNIST and ImageNet,
    or their squares, as for CIFAR-10, which need 50 times the learning rate."""

    def usual_settings(self, ipc: int) -> Mapping[str, float | str | None]:
        """The released learning rate is 1e-5 ipc for the L1 distance (on MNIST) and 5e-4 ipc for squares (on CIFAR-10),
        for images in [0, 1], with momentum ½ and a step for each class. Here it is converted to standardised images (÷
        (¼)²) and to one joint step (× 2, without momentum). 500 networks are the default of the released program, 2000
        its number for CIFAR-10."""
        rate, networks = {"absolute": (1e-5, 500), "squared": (5e-4, 2000)}[self.differences]
        rates = {"lr_img": 2 * 16 * rate * ipc, "lr_init": 0.01, "outer_momentum": 0.0}
        return {"iterations": networks * self.life(ipc), **rates}

    def _training_images(self, ipc: int, images_per_pass: int) -> float:
        return (1 - 1 / self.life(ipc)) * self._passes(ipc) * self.net_images

    def begin(self, setup: Setup, variables: Variables, seed: int) -> StepState:
        initial = super().begin(setup, variables, seed)
        return StepState({**initial.tensors, "velocity": torch.zeros_like(initial.tensors["theta"])}, initial.counters)

    def trained(
        self, setup: Setup, variables: Variables, tensors: Mapping[str, Tensor], iteration: int, seed: int
    ) -> dict[str, Tensor]:
        engine, train, classes = engine_of(setup.model), setup.dataset.train, len(setup.dataset.classes)
        theta, velocity, generator = tensors["theta"], tensors["velocity"], rng(seed, "training", iteration)
        for _ in range(self._passes(1)):
            chosen = torch.randperm(len(train), generator=generator)[: self.net_images]
            for rows in to_device(chosen, setup.dataset.device).split(self.net_batch):
                targets = one_hot(train.labels[rows], classes).to(theta.dtype)
                images, targets = self._augmented(setup, train.batch(rows).to(theta.dtype), targets, generator)
                slope = engine.gradient(theta, images, targets).theta + self.net_decay * theta
                velocity = self.net_momentum * velocity + slope
                theta = theta - self.net_lr * velocity
        return {"theta": theta, "velocity": velocity}

    def _augmented(
        self, setup: Setup, images: Batch, targets: Targets, generator: torch.Generator
    ) -> tuple[Batch, Targets]:
        """Augment a batch of real images with their targets."""
        names = setup.settings.augmentation.split("_")
        if self.cutmix:
            names = [name for name in names if name != "cutout"]
        drawn = draw("_".join(names), len(images), setup.dataset.shape, generator)
        return cut_and_mixed(apply(images, drawn.to(images.device)), targets, self.cutmix, generator)

    def distance(self, model: FlatModel, real: Params, synthetic: Params) -> tuple[Scalar, Params]:
        difference, mask = synthetic - real, torch.zeros_like(synthetic)
        for weights in model.kernels or _matrices(model, synthetic):
            mask[weights] = 1.0
        if self.differences == "squared":
            return (mask * difference.square()).sum(), 2 * mask * difference
        return (mask * difference.abs()).sum(), mask * difference.sign()


def _matrices(model: FlatModel, theta: Params) -> list[slice]:
    """Slices of θ that hold the weights of linear layers."""
    parts = zip(model.layers, model.unflatten(theta).values(), strict=True)
    return [position for position, part in parts if part.dim() > 1]


def _class_targets(label: int, classes: int, images: Batch) -> Targets:
    """One-hot targets of images of one class."""
    labels = torch.full((len(images),), label, device=images.device)
    return one_hot(labels, classes).to(images.dtype)


DC = Method(
    name="dc",
    paper="DC (Zhao et al., Dataset Condensation with Gradient Matching, arXiv 2006.05929), Algorithm 1",
    step=GradientMatching(),
    expert=None,
    init=NoiseInit(),
    learn=("images",),
)
"""From noise, without augmentation."""
DSA = DC.replace(
    name="dsa",
    paper="DSA (Zhao & Bilen, Differentiable Siamese Augmentation, arXiv 2102.08259), Algorithm 1: DC, augmented",
    step=SiameseGradientMatching(),
    init=RealInit(),
)
"""From real images, with one augmentation on both sides."""
IDC = DSA.replace(
    name="idc",
    paper="IDC (Kim et al., Efficient Synthetic-Data Parameterization, arXiv 2205.14959), Algorithm 1",
    step=RealTrainedGradientMatching(),
)
"""Published with four sub-images per slot, `--distill.factor 2`."""
