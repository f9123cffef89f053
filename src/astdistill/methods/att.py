"""ATT: automatic training trajectories, as long as they need to be."""

from __future__ import annotations

from .mtt import MTT
from .parts import NearestGoal

ATT = MTT.replace(
    name="att",
    paper="Liu et al., Dataset Distillation by Automatic Training Trajectories, arXiv 2407.14245, equations of its minimum distance",
    goal=NearestGoal(),
)
"""The student is compared with the target after whichever inner step brings it nearest."""
