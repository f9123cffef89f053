"""The outer step of a method: from the synthetic set to the derivative that it follows. Matching trajectories is one of
several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from ..data.dataset import Dataset
from ..data.textures import Torus
from ..experts.store import Segment, TrajectoryStore
from ..models.flat import FlatModel
from ..models.registry import build_model
from ..runtime.config import Part
from ..runtime.errors import InputError
from ..runtime.seeds import derive, rng
from ..runtime.shapes import Params, Targets
from .initialisation import Classifier
from .unroll import InnerLoop, MetaGradient, Variables, draw_plan

if TYPE_CHECKING:  # a method holds its outer step, so its module imports this one
    from .method import Method

OF_TRAJECTORIES = (
    *(
        "experts",
        "method.expert",
        "method.estimator",
        "method.goal",
        "method.momentum",
        "method.perturb",
        "method.sample",
        "method.weight",
    ),
    *(
        "distill.inner_steps",
        "distill.matched_epochs",
        "distill.max_experts",
        "distill.max_start_epoch",
        "distill.trajectories",
    ),
)
"""Settings that matching trajectories reads, and hardly another family."""


class StepSettings(Protocol):
    """What an outer step reads of `DistillSettings`, which explain themselves there."""

    @property
    def inner_steps(self) -> int: ...
    @property
    def matched_epochs(self) -> int: ...
    @property
    def max_start_epoch(self) -> int: ...
    @property
    def last_epoch(self) -> int: ...
    @property
    def batch_syn(self) -> int | None: ...
    @property
    def augmentation(self) -> str: ...
    @property
    def torus(self) -> Torus: ...


@dataclass(frozen=True)
class Setup:
    """What stays the same from one outer step to the next."""

    dataset: Dataset
    experts: TrajectoryStore | None
    """None where the method trains none."""
    network: str
    """The student's name, as `build_model` takes it."""
    model: FlatModel
    """The student as a function of its parameters."""
    method: Method
    settings: StepSettings

    def fresh(self, seed: int, iteration: int) -> Params:
        """The parameters `[P]` of a newly initialised student, drawn for this outer step and no other."""
        network = build_model(
            self.network, self.dataset.shape, len(self.dataset.classes), seed=derive(seed, "network", iteration)
        )
        return self.model.flatten(network).to(self.dataset.device)

    @property
    def classifier(self) -> Classifier:
        """The network as it labels images, or whole canvases."""
        return self.settings.torus.averaged(self.model)


class OuterStep(Part):
    """How the synthetic set is judged. A family of methods is a subclass with `__call__`, a pure function of its
    arguments.

    The images are grouped by class, as many of each.
    """

    needs_experts: ClassVar[bool] = False
    """Whether it reads the trajectories of experts; its methods have an `expert` recipe."""
    unrolls: ClassVar[bool] = False
    """Whether it is a derivative through `inner_steps` steps of training by the method's estimator, as which its cost
    is then estimated."""
    loss_name: ClassVar[str] = "loss"
    """What its loss is called in figures."""
    about: ClassVar[str] = ""
    """What an outer step does and what its loss means, for the reader of a report."""
    ignores: ClassVar[tuple[str, ...]] = OF_TRAJECTORIES
    """Settings, or the beginnings of their names, that it does not read; a report leaves them out."""

    def check(self, method: Method, settings: StepSettings, epochs: int | None, whose: str) -> None:
        """Raise InputError where settings contradict one another, or the number of epochs that the experts have, if
        there are some.

        `whose` begins the clause that this number belongs to, as in 'the expert recipe has'.
        """

    def usual_settings(self, ipc: int) -> Mapping[str, int | float | None]:
        """Fields of `DistillSettings` that a cell of another family takes from this one, at so many images per
        class."""
        return {}

    def __call__(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> MetaGradient:
        """The loss of the set and its derivatives; zeros for what it does not depend on. All draws depend on `seed` and
        `iteration`."""
        raise NotImplementedError

    def targets(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> Targets:
        """Y `[N, K]` as it is saved after outer step `iteration`: the variables' own, here."""
        return variables.targets

    def images_trained(self, images: int, classes: int) -> float:
        """Images that pass forward and backward in one outer step on a set of so many `images`: what its time is
        estimated from.

        A forward pass alone counts a third. Not asked where `unrolls`.
        """
        return float(images)


class TrajectoryMatching(OuterStep):
    """The student trains on the set from an expert's epoch on, and is to move as the expert did (MTT, arXiv 2203.11932,
    Algorithm 1).

    Its decisions are fields of the method: sample, perturb, weight, momentum, goal, estimator and labels.
    """

    needs_experts: ClassVar[bool] = True
    unrolls: ClassVar[bool] = True
    loss_name: ClassVar[str] = "matching loss"
    about: ClassVar[str] = (
        "Each outer step trains a student network on the images for a stretch and then changes them, so that the "
        "student moves as an "
        "expert did on the real data. The matching loss is the squared distance that stays between the two, as a share "
        "of the expert’s "
        "own way, added up over the epochs that are matched. Every step draws another stretch, so single losses "
        "scatter."
    )
    ignores: ClassVar[tuple[str, ...]] = ()

    def check(self, method: Method, settings: StepSettings, epochs: int | None, whose: str) -> None:
        last = settings.last_epoch
        if epochs is not None and last > epochs:
            allowed = max(1, epochs - settings.matched_epochs + 1)
            raise InputError(
                f"Start epochs below {settings.max_start_epoch} and {settings.matched_epochs} matched epochs reach "
                f"epoch {last}, but "
                f"{whose} {epochs}; choose --distill.max-start-epoch {allowed} or less, or train longer experts."
            )
        method.sample.check(settings.max_start_epoch)
        method.goal.check(settings.inner_steps, settings.matched_epochs)

    def __call__(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> MetaGradient:
        """The meta-gradient of one student, all of whose draws depend on `seed`."""
        method, settings = setup.method, setup.settings
        segment = self._segment(setup, iteration, seed)
        start = method.perturb(segment.start, setup.model, rng(seed, "perturb", iteration))
        plan = draw_plan(
            settings.inner_steps,
            len(variables.images),
            settings.batch_syn,
            settings.augmentation,
            setup.dataset.shape,
            rng(seed, "plan", iteration),
            setup.dataset.device,
            settings.torus,
            method.batches == "released",
        )
        weight = method.weight(segment.epoch, settings.max_start_epoch)
        inner = InnerLoop(setup.model, plan, method.momentum, weight, method.labels.kind)
        targets = method.labels.at(variables.targets, variables.images, segment, setup.classifier)
        variables = Variables(variables.images, targets, variables.lr)
        return method.estimator(inner, start, variables, method.goal(segment, start, settings.inner_steps))

    def targets(self, setup: Setup, variables: Variables, iteration: int, seed: int) -> Targets:
        segment = self._segment(setup, iteration, seed)
        return setup.method.labels.at(variables.targets, variables.images, segment, setup.classifier)

    def _segment(self, setup: Setup, iteration: int, seed: int) -> Segment:
        starts, matched = setup.settings.max_start_epoch, setup.settings.matched_epochs
        assert setup.experts is not None, "a method that needs experts has a recipe for them"
        return setup.method.sample(setup.experts, iteration, starts, matched, seed).to(setup.dataset.device)
