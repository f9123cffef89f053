"""The outer step of a method: from the synthetic set to the derivative that it follows. Matching trajectories is one of
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
"""Those of one outer step, in their order."""

if TYPE_CHECKING:  # a method holds its outer step, so its module imports this one
    from .method import Method

OF_EXPERTS = ("experts", "method.expert", "distill.max_experts")
"""Settings that only methods with experts read."""
OF_TRAJECTORIES = (
    *("method.batches", "method.estimator", "method.loss", "method.momentum", "method.perturb", "method.sample"),
    *("method.weight", "distill.batch_syn", "distill.inner_steps", "distill.matched_epochs"),
    *("distill.max_start_epoch", "distill.trajectories"),
)
"""Settings that matching trajectories reads, and hardly another family; some by the places that they have in the files
of earlier versions."""


class StepSettings(Protocol):
    """What an outer step reads of `DistillSettings`, which explain themselves there."""

    @property
    def augmentation(self) -> str: ...
    @property
    def texture(self) -> TextureSpec: ...


def one_after_another(step: OuterStep, setup: Setup, variables: Variables, iteration: int, seed: int) -> Terms:
    """All terms of an outer step, in their order, computed by this process.

    Args:
        step: It has the terms.
        setup: What stays the same from one outer step to the next.
        variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and what else is learned.
        iteration: The outer step, counted from 0.
        seed: Of the run.
    """
    return [step.term(setup, variables, iteration, seed, number) for number in range(step.terms)]


@dataclass(frozen=True)
class Setup:
    """What stays the same from one outer step to the next."""

    dataset: Dataset
    """The real data."""
    experts: TrajectoryStore | None
    """None where the method trains none."""
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
        """The parameters `[P]` of a newly initialised student, drawn for this outer step and no other.

        Args:
            seed: Of the run.
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
    """What one outer step has the network do, in images that pass through it: what its time and memory are estimated
    from."""

    forward: float = 0.0
    """Images that pass forward alone, for their features or logits."""
    backward: float = 0.0
    """Images that pass forward and backward, down to themselves."""
    augmented: float = 0.0
    """Images that are augmented, besides those of `training_steps`."""
    at_once: int = 0
    """The most images that the network holds at once of these."""
    groups: int = 1
    """In how many passes, one after another, `forward` is done, and `backward`."""
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
    """The most copies of the parameters that are there at the same time as these, besides the student."""
    saved: int = 0
    """Copies of the parameters that the step keeps for the next one, which are saved with the run."""
    optimiser: StudentOptimiser | None = None
    """What moves the student in them; none means SGD with the method's momentum."""
    before: float = 0.0
    """Steps of training on such batches besides, through which nothing is differentiated."""
    trained: float = 0.0
    """Images that are trained on besides: they pass forward and backward for the derivative in θ, by the engine,
    augmented."""
    trained_at_once: int = 0
    """The most of them that pass together."""
    repeats: int = 1
    """How often all of this is done, once after another."""


@dataclass(frozen=True)
class StepState:
    """What an outer step keeps from one call to the next: tensors, and numbers or words that JSON can hold."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """By name, on the device of the data."""
    counters: Mapping[str, Any] = field(default_factory=dict)
    """By name."""

    def clone(self) -> StepState:
        """The same in memory of its own."""
        tensors = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}
        return StepState(tensors, copy.deepcopy(dict(self.counters)))


class OuterStep(Component):
    """How the synthetic set is judged. A family of methods is a subclass with `__call__`, a pure function of its
    arguments, or, where it keeps something between its calls, with `begin` and `advance`.

    The images are grouped by class, as many of each, in the size that networks see: where they are stored as slots of
    several sub-images (`factor`), a step is given those as images of their own, and its derivatives are taken back to
    what is stored. A family that learns more than images, targets and η says what by
    `rates` and `further`.
    """

    needs_experts: ClassVar[bool] = False
    """Whether it reads the trajectories of experts; its methods have an `expert` recipe."""
    derives: ClassVar[tuple[str, ...]] = ("images", "targets", "lr")
    """Of what derivatives can be given, besides what `rates` names."""
    family: ClassVar[str] = ""
    """What it does, in the words of the field, as in 'made by … with astdistill'; empty where it has no name."""
    loss_name: ClassVar[str] = "loss"
    """What its loss is called in figures."""
    about: ClassVar[str] = ""
    """What an outer step does and what its loss means, for the reader of a report."""
    of_experts: ClassVar[str] = ""
    """What it takes from experts, for the reader of a report."""
    ignores: ClassVar[tuple[str, ...]] = OF_TRAJECTORIES
    """Settings, or the beginnings of their names, that it does not read; a report leaves them out. Those of experts
    are not among them: whether a method has any is said by its recipe for them."""

    @property
    def terms(self) -> int:
        """How many terms its meta-gradient is the mean of, none of which needs another (`mean_of_terms`); 1 where it
        has no `term`."""
        return 1

    @property
    def last_epoch(self) -> int | None:
        """The last expert epoch whose row an outer step can read; None where any may be, or none is."""
        return None

    @property
    def counts(self) -> str:
        """T, M and the bound of start epochs, as a table of presets has them; nothing where a method has none."""
        return ""

    def with_numbers_of(self, other: OuterStep) -> OuterStep:
        """The step for a preset whose numbers are `other`'s, which it takes over where it has the same ones.

        Args:
            other: The step that is replaced.
        """
        return self

    def check(self, method: Method, settings: StepSettings, epochs: int | None, whose: str) -> None:
        """Raise InputError where settings contradict one another, or the number of epochs that the experts have.

        Args:
            method: The method that the step belongs to.
            settings: Augmentation, and whether images are textures.
            epochs: Epochs of the experts. None: there are none, or they are not known.
            whose: Begins the clause that this number belongs to, as in 'the expert recipe has'.
        """

    def usual_settings(self, ipc: int) -> Mapping[str, float | str | None]:
        """Fields of `DistillSettings` that a preset of another family takes from this one, at so many images per
        class.

        Args:
            ipc: Images per class.
        """
        return {}

    def __call__(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> MetaGradient:
        """The loss of the set and its derivatives, without those of what it does not depend on. All draws depend on
        `seed` and `iteration`.

        Args:
            setup: What stays the same from one outer step to the next.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and what else is learned.
            iteration: The outer step, counted from 0.
            seed: Of the run; draws depend on it and on the outer step.
        """
        raise NotImplementedError

    def term(self, setup: Setup, variables: Variables, iteration: int, seed: int, number: int) -> MetaGradient:
        """One of several terms whose mean is the meta-gradient. Another process may compute it: all draws depend on
        `seed`, `iteration` and `number`, and nothing is kept.

        Args:
            setup: What stays the same from one outer step to the next.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and what else is learned.
            iteration: The outer step, counted from 0.
            seed: Of the run.
            number: Of the term, 0 … `terms` − 1.
        """
        raise NotImplementedError

    def mean_of_terms(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> MetaGradient:
        """The mean of all terms, to the same bits whoever computes them: they are added in their order.

        Args:
            setup: What stays the same from one outer step to the next; its `compute_terms` may share them.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and what else is learned.
            iteration: The outer step, counted from 0.
            seed: Of the run.
        """
        return MetaGradient.mean(setup.compute_terms(self, setup, variables, iteration, seed))

    def rates(self) -> Mapping[str, float]:
        """The outer rates of what can be learned besides images, targets and lr, by name; their momentum is the
        images'."""
        return {}

    def further(self, setup: Setup, variables: Variables, seed: int) -> Mapping[str, Tensor]:
        """Where those begin, by the names of `rates`; `variables` are the first images, targets and η.

        Args:
            setup: What stays the same from one outer step to the next.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and what else is learned.
            seed: Of the run; draws depend on it and on the outer step.
        """
        return {}

    def begin(self, setup: Setup, variables: Variables, seed: int) -> StepState:
        """What the step keeps, before the first outer step; nothing, here.

        Args:
            setup: What stays the same from one outer step to the next.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and what else is learned.
            seed: Of the run; draws depend on it and on the outer step.
        """
        return StepState()

    def advance(
        self, setup: Setup, variables: Variables, state: StepState, iteration: int, seed: int
    ) -> tuple[MetaGradient, StepState]:
        """What `__call__` gives, and what is kept for the next call.

        What is kept counts only if the outer step is taken: after one that is skipped or passed over, the next call is
        given what this one was given. It is saved with the run and comes back to the bit.

        Args:
            setup: What stays the same from one outer step to the next.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and what else is learned.
            state: What was kept at the last outer step.
            iteration: The outer step, counted from 0.
            seed: Of the run; draws depend on it and on the outer step.
        """
        return self(setup, variables, iteration, seed), state

    def then(self, setup: Setup, iteration: int, seed: int) -> Sequence[Callable[[Variables], MetaGradient]]:
        """Further gradients of the same outer step, each of which the outer optimiser follows by a step of its own,
        taken where the one before it led; none, here.

        Args:
            setup: What stays the same from one outer step to the next.
            iteration: The outer step, counted from 0.
            seed: Of the run; draws depend on it and on the outer step.
        """
        return ()

    clips: ClassVar[bool] = False
    """Whether pixels are cut to [0, 1] after every step."""

    def project(self, setup: Setup, learned: Mapping[str, Tensor]) -> None:
        """Bring what is learned back to where it is allowed to be, in place, once the outer optimiser has moved it;
        pixels to [0, 1] where the step `clips`.

        A step that is refused afterwards is undone with its projection. The momentum of the optimiser stays as it is.

        Args:
            setup: What stays the same from one outer step to the next.
            learned: Images, targets and what else is learned by name, and as `lr` the φ of `SyntheticLr`.
        """
        if self.clips:
            setup.dataset.preprocessing.clip_(learned["images"])

    def targets(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> Targets:
        """Y `[N, K]` as it is saved after outer step `iteration`: the variables' own, here.

        Args:
            setup: What stays the same from one outer step to the next.
            variables: Images X `[N, C, H, W]`, targets Y `[N, K]`, η, and what else is learned.
            iteration: The outer step, counted from 0.
            seed: Of the run; draws depend on it and on the outer step.
        """
        return variables.targets

    def within(self, images: int, classes: int) -> Self:
        """The step as it works on a training part that has fewer images than the step would take at once.

        Args:
            images: N, the real images of the training part.
            classes: K, the classes.
        """
        return self

    def work(self, settings: StepSettings, images: int, classes: int) -> StepWork:
        """What one outer step on a set of so many `images` computes; here each of them passes forward and backward.

        Args:
            settings: Augmentation, and whether images are textures.
            images: N, images of the whole set.
            classes: K.
        """
        seen = images * settings.texture.samples
        return StepWork(backward=seen, augmented=seen, at_once=seen)


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
        """Drawn for one outer step: `batch_real` real images of the class, or all of one that has fewer, and all
        synthetic `images` of it, or `most_synthetic` of them."""
        data, members = setup.dataset, setup.dataset.train.of_class(label)
        chosen = torch.randperm(len(members), generator=rng(seed, "real", iteration, label))[:batch_real]
        real = data.train.batch(members[to_device(chosen, members.device)]).to(images.dtype)
        one = _augmentation(setup, label, iteration, seed)
        synthetic = of_class(setup, images, label, iteration, seed, most_synthetic)
        return Pair(label, apply(real, one.shared(len(real))), synthetic)


def of_class(
    setup: Setup, images: Images, label: int, iteration: int, seed: int, most_synthetic: int | None = None
) -> Batch:
    """The synthetic `images` of a class, or `most_synthetic` of them, as networks see them in one outer step, all under
    one augmentation: that of `Pair.drawn` with the same seed."""
    data, texture, purpose = setup.dataset, setup.settings.texture, (iteration, label)
    if len(images) > (most_synthetic or len(images)):
        own = torch.randperm(len(images), generator=rng(seed, "synthetic", *purpose))[:most_synthetic]
        images = images[to_device(own, images.device)]
    looks = images.repeat(texture.samples, 1, 1, 1)
    crops = texture.draw(len(looks), (data.shape[1], data.shape[2]), rng(seed, "crops", *purpose)).to(data.device)
    return apply(crops(looks), _augmentation(setup, label, iteration, seed).shared(len(looks)))


def _augmentation(setup: Setup, label: int, iteration: int, seed: int) -> Draw:
    """One draw for all images of a class."""
    data, generator = setup.dataset, rng(seed, "augmentation", iteration, label)
    return draw(setup.settings.augmentation, 1, data.shape, generator).to(data.device)


class TrajectoryMatching(OuterStep):
    """The student trains on the set from an expert's epoch on, and is to move as the expert did (MTT, arXiv 2203.11932,
    Algorithm 1).

    Its decisions are fields of the method: sample, perturb, weight, momentum, loss, estimator and labels.
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

    def check(self, method: Method, settings: StepSettings, epochs: int | None, whose: str) -> None:
        last = self.max_start_epoch - 1 + self.expert_epochs
        if epochs is not None and last > epochs:
            allowed = max(1, epochs - self.expert_epochs + 1)
            raise InputError(
                f"Start epochs below {self.max_start_epoch} and {self.expert_epochs} matched epochs reach epoch "
                f"{last}, but {whose} {epochs}; choose --method.step.max-start-epoch {allowed} or less, or train "
                f"longer experts."
            )
        method.sample.check(self.max_start_epoch)
        method.loss.check(self.syn_steps, self.expert_epochs)

    def __call__(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> MetaGradient:
        """The mean of the meta-gradients of its students, each of which is a term."""
        return self.mean_of_terms(setup, variables, iteration, seed)

    def term(self, setup: Setup, variables: Variables, iteration: int, seed: int, number: int) -> MetaGradient:
        """The meta-gradient of one student; the segment of the next one may be read meanwhile."""
        following = self._next_draw(iteration, seed, number)
        seed = _seed_of(seed, number)
        method, settings = setup.method, setup.settings
        segment = self._segment(setup, iteration, seed)
        if setup.experts is not None:
            setup.experts.read_ahead(partial(self._drawn, setup, *following))
        start = method.perturb(segment.start, setup.model, rng(seed, "perturb", iteration))
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
        """Outer step and seed of the student after one, where one process computes all of them."""
        if number + 1 < self.trajectories:
            return iteration, _seed_of(seed, number + 1)
        return iteration + 1, seed

    def work(self, settings: StepSettings, images: int, classes: int) -> StepWork:
        batch = min(self.batch_syn or images, images) * settings.texture.samples
        return StepWork(training_steps=self.syn_steps, batch=batch, repeats=self.trajectories)

    def targets(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> Targets:
        segment = self._segment(setup, iteration, seed)
        return setup.method.labels.at(variables.targets, variables.images, segment, setup.classifier)

    def _segment(self, setup: Setup, iteration: int, seed: int) -> Segment:
        return self._drawn(setup, iteration, seed).to(setup.dataset.device)

    def _drawn(self, setup: Setup, iteration: int, seed: int) -> Segment:
        assert setup.experts is not None, "a method that needs experts has a recipe for them"
        return setup.method.sample(setup.experts, iteration, self.max_start_epoch, self.expert_epochs, seed)


def _seed_of(seed: int, trajectory: int) -> int:
    """That of all draws of one student: of the first the run's own, of the others one derived from it."""
    if not trajectory:
        return seed
    return derive(seed, "trajectory", trajectory)
