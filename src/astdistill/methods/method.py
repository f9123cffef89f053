"""The Method record: one field for each decision that a paper makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from ..experts.recipe import ExpertRecipe
from ..runtime.config import FINITE, Component, Record
from ..runtime.errors import InputError, unknown
from .estimators import Estimator, Recompute
from .initialisation import (
    HardLabels,
    ImageInit,
    RealInit,
    RepresentativeInit,
    RepresentativeInitAsReleased,
    SyntheticLabels,
)
from .matching import FinalMatchingLoss, IntermediateMatchingLoss, MatchingLoss
from .outer import LogSyntheticLr, StepFilter, SyntheticLr
from .outer_step import OF_EXPERTS, OuterStep, TrajectoryMatching
from .segments import InnerWeight, Perturbation, SegmentSampler, UniformSampler

_ORIGINAL_TEXTS = {
    "AST: Alignment with Smooth and High-Quality Expert Trajectories, arXiv 2310.10541; equations of its six "
    "parts, with corrections": "AST: Alignment with Smooth and High-Quality Expert Trajectories, arXiv "
    "2310.10541; equations of its six parts, sound",
    "AST, arXiv 2310.10541, equations as in the released code": "AST, arXiv 2310.10541, equations as in the released "
    "code (METHOD §2, last column)",
    "Guo et al., Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching, arXiv 2310.05773, "
    "equations of section 3": "Guo et al., Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory "
    "Matching, arXiv 2310.05773, equations of §3",
    "Guo et al., arXiv 2310.05773, equations of section 3 as in the released code": "Guo et al., arXiv 2310.05773, "
    "equations of §3 as in the released code",
}
"""Current texts of `paper`, with those of the first version; digests of saved runs are computed from the latter."""
_CURRENT_TEXTS = {original: current for current, original in _ORIGINAL_TEXTS.items()}


class Method(Record):
    """How a data set is distilled. A new paper is one `MTT.replace(…)`, in its own file."""

    model_config = FINITE
    renamed: ClassVar[Mapping[str, str]] = {
        "goal": "loss",
        "accept": "step_filter",
        "average": "ema_decay",
        "rate": "synthetic_lr",
    }

    name: str
    """Name of the method, shown in tables and saved with the set."""
    paper: str
    """Title or arXiv number of the paper, and what differs from it."""
    step: OuterStep = TrajectoryMatching()
    """What an outer step computes, with its numbers: the family of the method. Fields about segments and students are
    read by trajectory matching alone."""
    expert: ExpertRecipe | None = ExpertRecipe()
    """Training recipe of the experts; None if the method needs none."""
    init: ImageInit = RealInit()
    """How the synthetic images are initialised."""
    sample: SegmentSampler = UniformSampler()
    """Which segment of an expert's trajectory an outer step matches."""
    perturb: Perturbation = Perturbation()
    """Perturbation of the student's initial parameters."""
    labels: SyntheticLabels = HardLabels()
    """How the labels of the synthetic images are made."""
    weight: InnerWeight = InnerWeight()
    """Factor on the student's loss, as a function of the start epoch."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum μ of the student, from 0 to below 1. It is differentiated through."""
    batches: Literal["equal", "released"] = "equal"
    """How batches are formed if batch_syn does not divide the number of synthetic images. equal: all of one size,
    across the ends of passes; released: the first batch of each pass is the smaller remainder, as in the released
    code."""
    loss: MatchingLoss = FinalMatchingLoss()
    """Matching loss between student and expert."""
    learn: tuple[str, ...] = ("images", "lr")
    """Which tensors the outer optimiser changes: images, targets (the labels), lr (η), and others that the outer step
    defines."""
    synthetic_lr: SyntheticLr = LogSyntheticLr()
    """Parametrisation of the learned learning rate η."""
    step_filter: StepFilter = StepFilter()
    """Which outer steps are applied."""
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the exponential moving average of images and labels that is saved and evaluated, from 0 to below 1. 0
    means no average: the last ones are saved."""
    estimator: Estimator = Recompute()
    """How the meta-gradient is computed."""

    @field_validator("step", mode="before")
    @classmethod
    def _default_to_trajectory_matching(cls, step: Any) -> Any:
        unnamed = isinstance(step, Mapping) and "part" not in step
        return TrajectoryMatching.model_validate(step) if unnamed else step

    @field_validator("paper")
    @classmethod
    def _update_paper_text(cls, paper: str) -> str:
        return _CURRENT_TEXTS.get(paper, paper)

    @model_validator(mode="after")
    def _check_learned(self) -> Self:
        learnable = ("images", "targets", "lr", *self.step.rates())
        for name in self.learn:
            if name not in learnable:
                raise unknown(
                    "tensor", name, learnable, context=f"that the outer step of method '{self.name}' can learn"
                )
        return self

    @model_validator(mode="after")
    def _check_experts(self) -> Self:
        pairs = (
            (self.step, self.step.needs_experts),
            (self.init, self.init.reads_trained),
            (self.labels, self.labels.reads_trained),
        )
        readers = [part for part, reads in pairs if reads]
        if self.expert is None and readers:
            raise InputError(
                f"{type(readers[0]).__name__} reads experts, but method '{self.name}' trains none; choose a part that "
                "does without (--init real), or a method that matches trajectories (--method mtt)."
            )
        return self

    def first_written(self) -> dict[str, Any]:
        """Return the method as the first version wrote it, so that digests match those of earlier versions: `step` and
        `batches` are omitted if they have the values that every method had then, and `paper` has its original text."""
        is_original = {"step": self.step == TrajectoryMatching(), "batches": self.batches == "equal"}
        written = {name: value for name, value in super().first_written().items() if not is_original.get(name)}
        return written | {"paper": _ORIGINAL_TEXTS.get(self.paper, self.paper)}

    @property
    def recipe(self) -> ExpertRecipe:
        """How the experts are trained. Raises InputError if the method has none."""
        if self.expert is None:
            raise InputError(
                f"Method '{self.name}' trains no experts; ask for those of a method that matches trajectories, such as "
                f"mtt."
            )
        return self.expert

    @property
    def ignores(self) -> tuple[str, ...]:
        """Settings of an experiment, or prefixes of their dotted names, that the method does not read."""
        return (*self.step.ignores, *(OF_EXPERTS if self.expert is None else ()))

    @property
    def reads_trained(self) -> bool:
        """Whether the initial images or their labels depend on an expert's last row."""
        return self.init.reads_trained or self.labels.reads_trained

    def without(self, part: str) -> Method:
        """The same method with one of AST's six parts switched off (docs/method.md, section 2). Raises InputError for
        an unknown part.

        Args:
            part: One of `PARTS`: "clipping", "penalty", "representative", "balanced", "intermediate" or "perturbation".
        """
        if part not in PARTS:
            raise unknown("part of a method", part, PARTS)
        return PARTS[part](self)


def _with_expert(method: Method, **changes: Any) -> Method:
    """Return the method with changes to its expert recipe; the method itself if it has no experts."""
    return method if method.expert is None else method.replace(expert=method.recipe.replace(**changes))


AST_OWN = (RepresentativeInit, RepresentativeInitAsReleased, IntermediateMatchingLoss)
"""Components specific to AST. Only these are replaced when a part is switched off; other methods have others."""


def _with_plain(method: Method, **plain: Component) -> Method:
    """Return the method with plain components in place of AST's own; components of other methods stay."""
    return method.replace(**{name: each for name, each in plain.items() if isinstance(getattr(method, name), AST_OWN)})


PARTS: dict[str, Callable[[Method], Method]] = {
    "clipping": lambda method: _with_expert(method, loss_warmup_epochs=0),
    "penalty": lambda method: _with_expert(method, penalty=0.0, max_grad_norm=0.0),
    "representative": lambda method: _with_plain(method, init=RealInit()),
    "balanced": lambda method: method.replace(weight=InnerWeight()),
    "intermediate": lambda method: _with_plain(method, loss=FinalMatchingLoss(origin=method.loss.origin)),
    "perturbation": lambda method: method.replace(perturb=Perturbation()),
}
"""AST's six parts, each with a function that removes it from a method."""
