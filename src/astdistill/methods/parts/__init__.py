"""The decisions that papers make, one part each."""

from .accept import Accept, LossThreshold
from .init import (
    Choice,
    Classifier,
    Clusters,
    CorrectInit,
    FileInit,
    Init,
    Initial,
    NoiseInit,
    RealInit,
    RepresentativeInit,
    RepresentativeInitAsReleased,
)
from .labels import ExpertTargets, HardTargets, TargetInit, TargetTargets
from .matching import FinalGoal, Goal, IntermediateGoal, IntermediateGoalAsReleased, NearestGoal
from .rate import LogRate, Rate, RawRate
from .start import (
    BalancedWeight,
    BalancedWeightAsReleased,
    GrowingWindow,
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
    "Choice",
    "Classifier",
    "Clusters",
    "CorrectInit",
    "ExpertTargets",
    "FileInit",
    "FinalGoal",
    "Goal",
    "GrowingWindow",
    "HardTargets",
    "Init",
    "Initial",
    "InnerWeight",
    "IntermediateGoal",
    "IntermediateGoalAsReleased",
    "LogRate",
    "LossThreshold",
    "NearestGoal",
    "NoiseInit",
    "Perturb",
    "Rate",
    "RawRate",
    "RealInit",
    "RepresentativeInit",
    "RepresentativeInitAsReleased",
    "Sample",
    "TargetInit",
    "TargetTargets",
    "UniformSample",
    "WeightPerturbation",
    "WeightPerturbationAsReleased",
]
