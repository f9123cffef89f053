"""Where Y starts, and whether it is a distribution or its logits."""

from __future__ import annotations

from typing import ClassVar, Literal

from ...experts import TrajectoryStore
from ...models import FlatModel
from ...records import Part
from ...shapes import Targets
from ...synthetic import one_hot
from .init import Initial, expert_logits


class TargetInit(Part):
    """Makes the targets Y of the initial set."""

    kind: ClassVar[Literal["hard", "soft"]] = "hard"

    def __call__(self, initial: Initial, experts: TrajectoryStore, model: FlatModel, classes: int, seed: int) -> Targets:
        """Y, `[N, K]`."""
        raise NotImplementedError


class HardTargets(TargetInit):
    """The one-hot label of each image (MTT, AST)."""

    def __call__(self, initial: Initial, experts: TrajectoryStore, model: FlatModel, classes: int, seed: int) -> Targets:
        return one_hot(initial.labels, classes)


class ExpertTargets(TargetInit):
    """The logits that a trained expert gives each initial image (DATM, arXiv 2310.05773, §3.2)."""

    kind: ClassVar[Literal["hard", "soft"]] = "soft"

    def __call__(self, initial: Initial, experts: TrajectoryStore, model: FlatModel, classes: int, seed: int) -> Targets:
        return expert_logits(experts, model, initial.images, seed).to(initial.images.device)
