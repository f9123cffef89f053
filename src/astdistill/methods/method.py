"""The Method record: one field for each decision that a paper makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from ..experts.recipe import ExpertRecipe
from ..runtime.config import FINITE, Record
from ..runtime.errors import unknown
from .estimators import Estimator, Recompute
from .initialisation import HardTargets, Init, RealInit, TargetInit
from .matching import FinalGoal, Goal
from .outer import Accept, LogRate, Rate
from .segments import InnerWeight, Perturb, Sample, UniformSample


class Method(Record):
    """How a data set is distilled. A paper is `MTT.replace(…)` in a file of its own."""

    model_config = FINITE

    name: str
    """Shown in tables and written into the set."""
    paper: str
    """Where it comes from: title or arXiv number and what is its own."""
    expert: ExpertRecipe = ExpertRecipe()
    init: Init = RealInit()
    sample: Sample = UniformSample()
    perturb: Perturb = Perturb()
    labels: TargetInit = HardTargets()
    weight: InnerWeight = InnerWeight()
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """μ of the student; differentiated through."""
    goal: Goal = FinalGoal()
    learn: tuple[Literal["images", "targets", "lr"], ...] = ("images", "lr")
    """What the outer steps change."""
    rate: Rate = LogRate()
    accept: Accept = Accept()
    average: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the moving average of X and Y that is saved and evaluated; 0 means the last ones are."""
    estimator: Estimator = Recompute()

    @property
    def reads_trained(self) -> bool:
        """Whether the start of the images or of their labels depends on an expert's last row."""
        return self.init.reads_trained or self.labels.reads_trained

    def without(self, part: str) -> Method:
        """The same method with one of AST's six parts switched off (METHOD §2). Raises InputError for an unknown part."""
        if part not in PARTS:
            raise unknown("part of a method", part, PARTS)
        return PARTS[part](self)


PARTS: dict[str, Callable[[Method], Method]] = {
    "clipping": lambda method: method.replace(expert=method.expert.replace(clip_epochs=0)),
    "penalty": lambda method: method.replace(expert=method.expert.replace(penalty=0.0, grad_norm=0.0)),
    "representative": lambda method: method.replace(init=RealInit()),
    "balanced": lambda method: method.replace(weight=InnerWeight()),
    "intermediate": lambda method: method.replace(goal=FinalGoal(origin=method.goal.origin)),
    "perturbation": lambda method: method.replace(perturb=Perturb()),
}
"""AST's six parts, each with the way to do without it."""
