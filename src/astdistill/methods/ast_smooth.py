"""AST: alignment with smooth and high-quality expert trajectories, in the sound reading of its six parts."""

from __future__ import annotations

from .mtt import MTT
from .parts import BalancedWeight, IntermediateGoal, RepresentativeInit, WeightPerturbation

AST = MTT.replace(
    name="ast",
    paper="AST: Alignment with Smooth and High-Quality Expert Trajectories, arXiv 2310.10541; equations of its six parts, sound",
    expert=MTT.expert.replace(lr=0.003, momentum=0.9, weight_decay=1e-3, lr_drop=0.6, clip_epochs=10, penalty=2.0, grad_norm=5.0),
    init=RepresentativeInit(),
    perturb=WeightPerturbation(),
    weight=BalancedWeight(),
    momentum=0.9,
    goal=IntermediateGoal(),
)
"""Clipping loss, gradient penalty, representative start, balanced loss, intermediate matching, weight perturbation.

The gradient norm is bounded because the sound penalty needs it: on whitened CIFAR-100 the input gradient's norm starts near 7 instead of 1,
and without a bound the first expert is infinite after five steps.
"""
