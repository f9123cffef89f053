"""DATM: difficulty-aligned trajectory matching."""

from __future__ import annotations

from .ftd import FTD
from .mtt import MTT
from .parts import CorrectInit, ExpertTargets, GrowingWindow, LossThreshold

DATM = MTT.replace(
    name="datm",
    paper="Guo et al., Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching, arXiv 2310.05773, equations of §3",
    expert=FTD.expert.replace(epochs=100),
    init=CorrectInit(),
    sample=GrowingWindow(),
    labels=ExpertTargets(),
    learn=("images", "targets", "lr"),
    accept=LossThreshold(),
    average=0.9995,
)
"""Starts at correctly classified images and an expert's logits, learns the labels, lets the window of start epochs grow, bounds the loss.

The window's numbers, the threshold and the average are those of a cell (`presets`). The experts are FTD's, as in the authors' own commands.
"""
