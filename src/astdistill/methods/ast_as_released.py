"""AST as its authors' code computes it, kept so that results can be compared."""

from __future__ import annotations

from .ast_smooth import AST
from .parts import BalancedWeightAsReleased, IntermediateGoalAsReleased, RepresentativeInitAsReleased, WeightPerturbationAsReleased

AST_AS_RELEASED = AST.replace(
    name="ast-as-released",
    paper="AST, arXiv 2310.10541, equations as in the released code (METHOD §2, last column)",
    expert=AST.expert.replace(penalty_form="pixel", grad_norm=0.0),
    init=RepresentativeInitAsReleased(),
    perturb=WeightPerturbationAsReleased(),
    weight=BalancedWeightAsReleased(),
    goal=IntermediateGoalAsReleased(),
)
"""Differs from AST in the form of the penalty, the initialisation, the balance, the matched steps and the perturbation."""
