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
    goal=IntermediateGoalAsReleased(origin="student"),
)
"""Differs from AST in the form of the penalty and the bound that only the sound form needs, the initialisation, the balance, the matched
steps and their denominators, and the perturbation. η stays logarithmic, so that it cannot turn negative; `rate=RawRate()` is as released.
"""
