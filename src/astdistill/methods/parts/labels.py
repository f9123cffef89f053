"""Where Y starts, whether it is a distribution or its logits, and whether every outer step makes it anew."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from ...data import Split
from ...experts import Segment, TrajectoryStore
from ...records import Part
from ...shapes import Images, Targets
from ...synthetic import one_hot
from .init import Classifier, Initial, expert_logits


class TargetInit(Part):
    """Makes the targets Y of the initial set."""

    kind: ClassVar[Literal["hard", "soft"]] = "hard"
    reads_trained: ClassVar[bool] = False
    """Whether the last row of an expert is read, for which the expert must be trained to the end."""

    def __call__(self, initial: Initial, experts: TrajectoryStore, model: Classifier, classes: int, seed: int) -> Targets:
        """Y, `[N, K]`. For textures `model` gives the mean logits of a canvas's k² cells."""
        raise NotImplementedError

    def at(self, targets: Targets, images: Images, segment: Segment, model: Classifier) -> Targets:
        """The targets of the present `images` in an outer step that imitates `segment`: Y itself, here."""
        return targets


class HardTargets(TargetInit):
    """The one-hot label of each image (MTT, AST)."""

    smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each label that is spread evenly over all classes (label smoothing, arXiv 1512.00567, §7); 0 means none."""

    def __call__(self, initial: Initial, experts: TrajectoryStore, model: Classifier, classes: int, seed: int) -> Targets:
        hard = one_hot(initial.labels, classes)
        return hard * (1 - self.smoothing) + self.smoothing / classes if self.smoothing else hard


class ExpertTargets(TargetInit):
    """The logits that a trained expert gives each initial image (DATM, arXiv 2310.05773, §3.2)."""

    kind: ClassVar[Literal["hard", "soft"]] = "soft"
    reads_trained: ClassVar[bool] = True
    temperature: float = Field(default=1.0, gt=0)
    """The logits are divided by it: above 1 the labels are softer than the expert's."""

    def __call__(self, initial: Initial, experts: TrajectoryStore, model: Classifier, classes: int, seed: int) -> Targets:
        return expert_logits(experts, model, Split(initial.images, initial.labels), seed).to(initial.images.device) / self.temperature


class TargetTargets(ExpertTargets):
    """The logits of the sampled expert at θ*_{t+M}, the segment's target, for the present images, made anew by every outer step.

    TESLA (arXiv 2211.10586, §3.3, soft label assignment). They count as constants of the step and are not learned. The set that is saved
    has those of its own images by the segment of the last outer step; the released code's are one update of the images older. Before the
    first step they are those of a trained expert.
    """

    @torch.no_grad()
    def at(self, targets: Targets, images: Images, segment: Segment, model: Classifier) -> Targets:
        return torch.cat([model(segment.checkpoints[-1], part) for part in images.split(1000)]) / self.temperature
