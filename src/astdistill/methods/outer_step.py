"""The outer step of a method, which computes the meta-gradient of the synthetic set. Trajectory matching is one of
several."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import torch
from pydantic import Field
from torch import Tensor

from ..data.augmentation import Draw, apply, draw
from ..data.dataset import Dataset
from ..data.textures import TextureSpec
from ..experts.store import Segment, TrajectoryStore
from ..models.flat import FlatModel
from ..models.registry import build_model
from ..runtime.config import Component
from ..runtime.errors import InputError
from ..runtime.seeds import derive, rng, to_device
from ..runtime.shapes import Batch, Features, Images, Params, Scalar, Targets
from .initialisation import Classifier
from .student_optimisers import StudentOptimiser
from .unroll import InnerLoop, MetaGradient, Variables, draw_plan

Terms = list[MetaGradient]
"""The terms of one outer step, in order."""

if TYPE_CHECKING:  # a method holds its outer step, so its module imports this one
    from .method import Method

OF_EXPERTS = ("experts", "method.expert", "distill.max_experts")
"""Settings that only methods with experts read."""
OF_TRAJECTORIES = (
    *("method.batches", "method.estimator", "method.loss", "method.momentum", "method.perturb", "method.sample"),
    *("method.weight", "distill.batch_syn", "distill.inner_steps", "distill.matched_epochs"),
    *("distill.max_start_epoch", "distill.trajectories"),
)
"""Settings that trajectory matching reads and most other families do not; some under their names in files of earlier
versions."""


class StepSettings(Protocol):
    """The part of `DistillSettings` that outer steps read; see there for the meaning of each field."""

    @property
    def augmentation(self) -> str: ...
    @property
    def texture(self) -> TextureSpec: ...


def one_after_another(step: OuterStep, setup: Setup, variables: Variables, iteration: int, seed: int) -> Terms:
    """All terms of an outer step, in order, computed by this process.

    Args:
        step: The outer step.
        setup: What all outer steps of a run share.
        variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and other learned tensors.
        iteration: The outer step, counted from 0.
        seed: Seed of the run.
    """
    # A term may write into its arguments, and workers give each term its own.
    return [step.term(setup, variables.clone(), iteration, seed, number) for number in range(step.terms)]


@dataclass(frozen=True)
class Setup:
    """What all outer steps of a run share."""

    dataset: Dataset
    """The real data."""
    experts: TrajectoryStore | None
    """None if the method trains no experts."""
    network: str
    """The student's name, as `build_model` takes it."""
    model: FlatModel
    """The student as a function of its parameters."""
    method: Method
    """The method that the step belongs to."""
    settings: StepSettings
    """Augmentation, and whether images are textures."""
    compute_terms: Callable[[OuterStep, Setup, Variables, int, int], Terms] = one_after_another
    """Computes the terms of a step, as `one_after_another` does; several workers may share them."""

    def fresh(self, seed: int, iteration: int) -> Params:
        """The parameters `[P]` of a newly initialised student, drawn for this outer step only.

        Args:
            seed: Seed of the run.
            iteration: The outer step, counted from 0.
        """
        network = build_model(
            self.network, self.dataset.shape, len(self.dataset.classes), seed=derive(seed, "network", iteration)
        )
        return self.model.flatten(network).to(self.dataset.device)

    @property
    def classifier(self) -> Classifier:
        """The network as it labels images, or whole canvases."""
        return self.settings.texture.averaged(self.model)


@dataclass(frozen=True)
class StepWork:
    """The work of one outer step, in images that pass through the network; time and memory are estimated from it."""

    forward: float = 0.0
    """Images that only pass forward, for their features or logits."""
    backward: float = 0.0
    """Images that pass forward and backward, for derivatives with respect to the images."""
    augmented: float = 0.0
    """Images that are augmented, besides those of `training_steps`."""
    at_once: int = 0
    """Largest number of these images that the network holds at once."""
    groups: int = 1
    """Number of sequential passes in which `forward`, and `backward`, are computed."""
    class_loss: Callable[[Features, Features], Scalar] | None = None
    """The loss of one class on the features `[B, F]` of its real and of its synthetic images, where it takes longer
    than a pass through the network."""
    training_steps: int = 0
    """Steps of training through which the method's estimator differentiates."""
    batch: int = 0
    """Images in each of them."""
    kept: int = 1
    """Copies of the parameters that each of these steps keeps."""
    kept_besides: int = 0
    """Largest number of further copies of the parameters that are held at the same time, besides the student."""
    saved: int = 0
    """Copies of the parameters that the step keeps for the next one and that are saved with the run."""
    optimiser: StudentOptimiser | None = None
    """The student's optimiser in these steps; None means SGD with the method's momentum."""
    before: float = 0.0
    """Number of further training steps on such batches, which are not differentiated."""
    trained: float = 0.0
    """Further augmented images that are trained on: they pass forward and backward for the derivative in θ, by the
    engine."""
    trained_at_once: int = 0
    """Largest number of these that pass together."""
    repeats: int = 1
    """How many times all of this is done, sequentially."""


@dataclass(frozen=True)
class StepState:
    """State that an outer step keeps between calls: tensors, and numbers or strings that can be stored as JSON."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """By name, on the device of the data."""
    counters: Mapping[str, Any] = field(default_factory=dict)
    """By name."""

    def clone(self) -> StepState:
        """A copy with its own memory."""
        tensors = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}
        return StepState(tensors, copy.deepcopy(dict(self.counters)))


class OuterStep(Component):
    """Computes the loss of the synthetic set and its derivatives. A family of methods is a subclass with `__call__`, a
    pure function of its arguments, or, if it keeps state between calls, with `begin` and `advance`.

    The images are grouped by class, equally many per class, in the size that networks see. If they are stored as slots
    of several sub-images (`factor`), a step receives the sub-images as separate images, and its derivatives are mapped
    back to the stored images. A family that learns more than images, targets and η defines these tensors in `rates` and
    `further`.
    """

    needs_experts: ClassVar[bool] = False
    """Whether it reads the trajectories of experts; its methods have an `expert` recipe."""
    derives: ClassVar[tuple[str, ...]] = ("images", "targets", "lr")
    """Tensors whose derivatives the step can compute, besides those that `rates` names."""
    family: ClassVar[str] = ""
    """Standard name of what it does, as in 'made by … with astdistill'; empty if there is none."""
    loss_name: ClassVar[str] = "loss"
    """Name of its loss in figures."""
    about: ClassVar[str] = ""
    """What an outer step does and what its loss means, for the reader of a report."""
    of_experts: ClassVar[str] = ""
    """How it uses experts, for the reader of a report."""
    ignores: ClassVar[tuple[str, ...]] = OF_TRAJECTORIES
    """Settings, or prefixes of their names, that it does not read; a report leaves them out. Settings of experts are
    not listed: whether a method has experts follows from its `expert` recipe."""

    @property
    def terms(self) -> int:
        """Number of independent terms whose mean is the meta-gradient (`mean_of_terms`); 1 if there is no `term`."""
        return 1

    @property
    def last_epoch(self) -> int | None:
        """The last expert epoch whose row an outer step can read; None if it may read any, or reads none."""
        return None

    @property
    def counts(self) -> str:
        """T, M and the bound of start epochs, as shown in a table of presets; empty if a method has none."""
        return ""

    def with_numbers_of(self, other: OuterStep) -> OuterStep:
        """Return this step with the numbers of `other`, the step of a preset, for all fields that both have.

        Args:
            other: The step that is replaced.
        """
        return self

    def check(self, method: Method, settings: StepSettings, epochs: int | None, epochs_of: str) -> None:
        """Raise InputError if settings contradict one another, or the experts' number of epochs.

        Args:
            method: The method that the step belongs to.
            settings: Augmentation, and whether images are textures.
            epochs: Epochs of the experts. None: there are none, or they are not known.
            epochs_of: Start of the clause that states this number in messages, as in 'the expert recipe has'.
        """

    def usual_settings(self, ipc: int) -> Mapping[str, float | str | None]:
        """Fields of `DistillSettings` that a preset of another family takes from this one, at `ipc` images per class.

        Args:
            ipc: Images per class.
        """
        return {}

    def __call__(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> MetaGradient:
        """The loss of the set and its derivatives, without those of tensors that it does not depend on. All random
        draws depend on `seed` and `iteration`.

        Args:
            setup: What all outer steps of a run share.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and other learned tensors.
            iteration: The outer step, counted from 0.
            seed: Seed of the run; random draws depend on it and on the outer step.
        """
        raise NotImplementedError

    def term(self, setup: Setup, variables: Variables, iteration: int, seed: int, number: int) -> MetaGradient:
        """One of several terms whose mean is the meta-gradient. Another process may compute it: all random draws depend
        on `seed`, `iteration` and `number`, and no state is kept.

        Args:
            setup: What all outer steps of a run share.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and other learned tensors.
            iteration: The outer step, counted from 0.
            seed: Seed of the run.
            number: Index of the term, 0 … `terms` − 1.
        """
        raise NotImplementedError

    def mean_of_terms(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> MetaGradient:
        """The mean of all terms, bitwise the same whichever processes compute them: they are summed in order.

        Args:
            setup: What all outer steps of a run share; its `compute_terms` may share them.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and other learned tensors.
            iteration: The outer step, counted from 0.
            seed: Seed of the run.
        """
        return MetaGradient.mean(setup.compute_terms(self, setup, variables, iteration, seed))

    def rates(self) -> Mapping[str, float]:
        """Outer learning rates of the tensors that can be learned besides images, targets and lr, by name; their
        momentum is that of the images."""
        return {}

    def further(self, setup: Setup, variables: Variables, seed: int) -> Mapping[str, Tensor]:
        """Initial values of the tensors in `rates`, by name; `variables` holds the initial images, targets and η.

        Args:
            setup: What all outer steps of a run share.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and other learned tensors.
            seed: Seed of the run; random draws depend on it and on the outer step.
        """
        return {}

    def begin(self, setup: Setup, variables: Variables, seed: int) -> StepState:
        """The state before the first outer step; empty in the base class.

        Args:
            setup: What all outer steps of a run share.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and other learned tensors.
            seed: Seed of the run; random draws depend on it and on the outer step.
        """
        return StepState()

    def advance(
        self, setup: Setup, variables: Variables, state: StepState, iteration: int, seed: int
    ) -> tuple[MetaGradient, StepState]:
        """Return the result of `__call__`, and the state for the next call.

        The new state is used only if the outer step is taken: after one that is skipped or passed over, the next call
        receives the same state as this one. The state is saved with the run and restored bitwise.

        Args:
            setup: What all outer steps of a run share.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and other learned tensors.
            state: The state kept by the previous outer step.
            iteration: The outer step, counted from 0.
            seed: Seed of the run; random draws depend on it and on the outer step.
        """
        return self(setup, variables, iteration, seed), state

    def then(self, setup: Setup, iteration: int, seed: int) -> Sequence[Callable[[Variables], MetaGradient]]:
        """Functions that compute further gradients of the same outer step. The outer optimiser takes one step for each,
        at the point where the previous one ended; empty in the base class.

        Args:
            setup: What all outer steps of a run share.
            iteration: The outer step, counted from 0.
            seed: Seed of the run; random draws depend on it and on the outer step.
        """
        return ()

    clips: ClassVar[bool] = False
    """Whether pixels are clipped to [0, 1] after every step."""

    def project(self, setup: Setup, learned: Mapping[str, Tensor]) -> None:
        """Project the learned tensors onto their allowed values, in place, after the outer optimiser has changed them;
        pixels to [0, 1] if `clips` is set. Assigning another tensor raises InputError.

        If the step is refused afterwards, its projection is undone too. The momentum of the optimiser is not changed.

        Args:
            setup: What all outer steps of a run share.
            learned: The learned tensors by name: images, targets and others; `lr` is the φ of `SyntheticLr`.
        """
        if self.clips:
            setup.dataset.preprocessing.clip_(learned["images"])

    def targets(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> Targets:
        """Y `[N, K]` as it is saved after outer step `iteration`; that of `variables` in the base class.

        Args:
            setup: What all outer steps of a run share.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and other learned tensors.
            iteration: The outer step, counted from 0.
            seed: Seed of the run; random draws depend on it and on the outer step.
        """
        return variables.targets

    def within(self, images: int, classes: int) -> Self:
        """Return the step for a training part that has fewer images than the step would take at once.

        Args:
            images: N, the real images of the training part.
            classes: K, the classes.
        """
        return self

    def work(self, settings: StepSettings, images: int, classes: int) -> StepWork:
        """The work of one outer step on a set of `images` images; in the base class each of them passes forward and
        backward.

        Args:
            settings: Augmentation, and whether images are textures.
            images: N, images of the whole set.
            classes: K.
        """
        views = images * settings.texture.samples
        return StepWork(backward=views, augmented=views, at_once=views)


@dataclass(frozen=True)
class Pair:
    """Real and synthetic images of one class as networks see them, under the same augmentation."""

    label: int
    real: Batch
    synthetic: Batch

    @staticmethod
    def drawn(
        setup: Setup,
        images: Images,
        label: int,
        iteration: int,
        seed: int,
        batch_real: int,
        most_synthetic: int | None = None,
    ) -> Pair:
        """Draw the pair for one outer step: `batch_real` real images of the class, or all if it has fewer, and all
        synthetic `images` of it, or `most_synthetic` of them."""
        data, members = setup.dataset, setup.dataset.train.of_class(label)
        chosen = torch.randperm(len(members), generator=rng(seed, "real", iteration, label))[:batch_real]
        real = data.train.batch(members[to_device(chosen, members.device)]).to(images.dtype)
        augmentation = _draw_augmentation(setup, label, iteration, seed)
        synthetic = of_class(setup, images, label, iteration, seed, most_synthetic)
        return Pair(label, apply(real, augmentation.shared(len(real))), synthetic)


def of_class(
    setup: Setup, images: Images, label: int, iteration: int, seed: int, most_synthetic: int | None = None
) -> Batch:
    """The synthetic `images` of a class, or `most_synthetic` of them, as networks see them in one outer step, all under
    one augmentation: that of `Pair.drawn` with the same seed."""
    data, texture, key = setup.dataset, setup.settings.texture, (iteration, label)
    if len(images) > (most_synthetic or len(images)):
        rows = torch.randperm(len(images), generator=rng(seed, "synthetic", *key))[:most_synthetic]
        images = images[to_device(rows, images.device)]
    views = images.repeat(texture.samples, 1, 1, 1)
    crops = texture.draw(len(views), (data.shape[1], data.shape[2]), rng(seed, "crops", *key)).to(data.device)
    return apply(crops(views), _draw_augmentation(setup, label, iteration, seed).shared(len(views)))


def _draw_augmentation(setup: Setup, label: int, iteration: int, seed: int) -> Draw:
    """Draw one augmentation for all images of a class."""
    data, generator = setup.dataset, rng(seed, "augmentation", iteration, label)
    return draw(setup.settings.augmentation, 1, data.shape, generator).to(data.device)


class TrajectoryMatching(OuterStep):
    """The student trains on the set from an expert's checkpoint on, and its parameters are to match later checkpoints
    of the expert (MTT, arXiv 2203.11932, Algorithm 1).

    Its components are fields of the method: sample, perturb, weight, momentum, loss, estimator and labels.
    """

    needs_experts: ClassVar[bool] = True
    family: ClassVar[str] = "trajectory matching"
    loss_name: ClassVar[str] = "matching loss"
    about: ClassVar[str] = (
        "Each outer step trains a student network on the images and changes the images so that the student’s "
        "parameters move as those of an expert did on the real data. The matching loss is the squared distance that "
        "remains between the two, divided by the squared distance that the expert moved, and summed over the matched "
        "epochs. Every step draws another segment of an expert’s training, so single losses scatter."
    )
    of_experts: ClassVar[str] = (
        "A student trained on the synthetic images has to move as the experts did, so experts should reach a high "
        "accuracy with small steps."
    )
    ignores: ClassVar[tuple[str, ...]] = ()
    renamed: ClassVar[Mapping[str, str]] = {"inner_steps": "syn_steps", "matched_epochs": "expert_epochs"}

    syn_steps: int = Field(default=20, ge=1)
    """T, the number of training steps of the student per outer step."""
    expert_epochs: int = Field(default=2, ge=1)
    """M, the number of expert epochs that the student has to match."""
    max_start_epoch: int = Field(default=20, ge=1)
    """Upper bound of the start epoch of a segment, exclusive."""
    batch_syn: int | None = Field(default=None, ge=1)
    """Batch size of the student, in synthetic images (sub-images, with distill.factor). Default: all of them."""
    trajectories: int = Field(default=1, ge=1)
    """Segments per outer step, each with its own student; their meta-gradients are averaged. Several workers can share
    them."""

    @property
    def terms(self) -> int:
        return self.trajectories

    @property
    def last_epoch(self) -> int | None:
        return self.max_start_epoch - 1 + self.expert_epochs

    @property
    def counts(self) -> str:
        return f"{self.syn_steps}/{self.expert_epochs}/{self.max_start_epoch}"

    def with_numbers_of(self, other: OuterStep) -> OuterStep:
        if not isinstance(other, TrajectoryMatching):
            return self
        return self.replace(**{name: getattr(other, name) for name in TrajectoryMatching.model_fields})

    def check(self, method: Method, settings: StepSettings, epochs: int | None, epochs_of: str) -> None:
        last = self.max_start_epoch - 1 + self.expert_epochs
        if epochs is not None and last > epochs:
            allowed = max(1, epochs - self.expert_epochs + 1)
            raise InputError(
                f"Start epochs below {self.max_start_epoch} and {self.expert_epochs} matched epochs reach epoch "
                f"{last}, but {epochs_of} {epochs}; choose --method.step.max-start-epoch {allowed} or less, or train "
                f"longer experts."
            )
        method.sample.check(self.max_start_epoch)
        method.loss.check(self.syn_steps, self.expert_epochs)

    def __call__(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> MetaGradient:
        """The mean of the meta-gradients of its students, each of which is a term."""
        return self.mean_of_terms(setup, variables, iteration, seed)

    def term(self, setup: Setup, variables: Variables, iteration: int, seed: int, number: int) -> MetaGradient:
        """The meta-gradient of one student; the segment of the next student may be read in the background."""
        next_draw = self._next_draw(iteration, seed, number)
        seed = _student_seed(seed, number)
        method, settings = setup.method, setup.settings
        segment = self._segment(setup, iteration, seed)
        if setup.experts is not None:
            setup.experts.read_ahead(partial(self._draw_segment, setup, *next_draw))
        start = method.perturb(segment.start.clone(), setup.model, rng(seed, "perturb", iteration))
        plan = draw_plan(
            self.syn_steps,
            len(variables.images),
            self.batch_syn,
            settings.augmentation,
            setup.dataset.shape,
            rng(seed, "plan", iteration),
            setup.dataset.device,
            settings.texture,
            method.batches == "released",
        )
        weight = method.weight(segment.epoch, self.max_start_epoch)
        inner = InnerLoop(setup.model, plan, method.momentum, weight, method.labels.kind)
        targets = method.labels.at(variables.targets, variables.images, segment, setup.classifier)
        variables = variables.replace(targets=targets)
        return method.estimator(inner, start, variables, method.loss(segment, start, self.syn_steps))

    def _next_draw(self, iteration: int, seed: int, number: int) -> tuple[int, int]:
        """Outer step and seed of the next student, if one process computes all of them."""
        if number + 1 < self.trajectories:
            return iteration, _student_seed(seed, number + 1)
        return iteration + 1, seed

    def work(self, settings: StepSettings, images: int, classes: int) -> StepWork:
        batch = min(self.batch_syn or images, images) * settings.texture.samples
        return StepWork(training_steps=self.syn_steps, batch=batch, repeats=self.trajectories)

    def targets(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> Targets:
        segment = self._segment(setup, iteration, seed)
        return setup.method.labels.at(variables.targets, variables.images, segment, setup.classifier)

    def _segment(self, setup: Setup, iteration: int, seed: int) -> Segment:
        return self._draw_segment(setup, iteration, seed).to(setup.dataset.device)

    def _draw_segment(self, setup: Setup, iteration: int, seed: int) -> Segment:
        assert setup.experts is not None, "a method that needs experts has a recipe for them"
        return setup.method.sample(setup.experts, iteration, self.max_start_epoch, self.expert_epochs, seed)


def _student_seed(seed: int, trajectory: int) -> int:
    """Seed of all random draws of one student: the run's own for the first, a derived one for each other."""
    if not trajectory:
        return seed
    return derive(seed, "trajectory", trajectory)
