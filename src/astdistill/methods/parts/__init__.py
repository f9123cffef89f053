"""The decisions that papers make, one part each."""

from .accept import Accept
from .init import FileInit, Init, Initial, NoiseInit, RealInit, RepresentativeInit, RepresentativeInitAsReleased
from .labels import ExpertTargets, HardTargets, TargetInit
from .matching import FinalGoal, Goal, IntermediateGoal, IntermediateGoalAsReleased
from .rate import LogRate, Rate, RawRate
from .start import (
    BalancedWeight,
    BalancedWeightAsReleased,
    InnerWeight,
    Perturb,
    Sample,
    UniformSample,
    WeightPerturbation,
    WeightPerturbationAsReleased,
)

__all__ = [
    "Accept",
    "BalancedWeight",
    "BalancedWeightAsReleased",
    "ExpertTargets",
    "FileInit",
    "FinalGoal",
    "Goal",
    "HardTargets",
    "Init",
    "Initial",
    "InnerWeight",
    "IntermediateGoal",
    "IntermediateGoalAsReleased",
    "LogRate",
    "NoiseInit",
    "Perturb",
    "Rate",
    "RawRate",
    "RealInit",
    "RepresentativeInit",
    "RepresentativeInitAsReleased",
    "Sample",
    "TargetInit",
    "UniformSample",
    "WeightPerturbation",
    "WeightPerturbationAsReleased",
]
