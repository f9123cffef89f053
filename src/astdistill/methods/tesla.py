"""TESLA: a gradient in constant memory, and labels that the sampled expert assigns."""

from __future__ import annotations

from ..unroll import FirstOrder
from .mtt import MTT
from .parts import TargetTargets

TESLA = MTT.replace(
    name="tesla",
    paper="Cui et al., Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory, arXiv 2211.10586, Algorithm 1",
    labels=TargetTargets(),
    estimator=FirstOrder(),
)
"""The gradient is first-order, hence approximate; `estimator=Recompute()` gives the exact one in constant memory too."""
