"""Distillation methods and the components that they are made of."""

import warnings
from typing import Any

from ..runtime.config import todays_name
from .back_propagation_through_training import (
    AT_BPTT,
    RAT_BPTT,
    AdaptiveTruncation,
    BackPropagationThroughTraining,
)
from .distribution_matching import DM, DistributionMatching
from .estimators import Backprop, Estimator, FirstOrder, Recompute, Truncated
from .gradient_matching import (
    DC,
    DSA,
    IDC,
    GradientMatching,
    RealTrainedGradientMatching,
    SiameseGradientMatching,
)
from .initialisation import (
    Choice,
    Classifier,
    Clusters,
    CorrectInit,
    ExpertLabels,
    ExpertTargetsAsReleased,
    FileInit,
    HardLabels,
    ImageInit,
    Initial,
    NoiseInit,
    RealInit,
    RepresentativeInit,
    RepresentativeInitAsReleased,
    SegmentLabels,
    SyntheticLabels,
    UnitNormInit,
    WeightLabels,
)
from .matching import (
    FinalMatchingLoss,
    IntermediateMatchingLoss,
    IntermediateMatchingLossAsReleased,
    Matching,
    MatchingLoss,
    Nearest,
    NearestMatchingLoss,
    Objective,
)
from .method import PARTS, Method
from .ncfm import NCFM, CharacteristicMatching
from .outer import LogSyntheticLr, LossThreshold, RawSyntheticLr, StepFilter, SyntheticLr
from .outer_step import OuterStep, Setup, StepSettings, StepState, StepWork, TrajectoryMatching
from .rded import RDED, CropInit, Selection
from .registry import find_method, methods
from .segments import (
    BalancedWeight,
    BalancedWeightAsReleased,
    Cycle,
    GrowingWindow,
    InnerWeight,
    Perturbation,
    SegmentSampler,
    UniformSampler,
    WeightPerturbation,
    WeightPerturbationAsReleased,
)
from .student_optimisers import Adam, Sgd, StudentOptimiser
from .tgdd import AST_TGDD, TGDD, TrajectoryGuidedMatching
from .trajectory_matching import AST, AST_AS_RELEASED, ATT, DATM, DATM_AS_RELEASED, FTD, MTT, TESLA
from .unroll import InnerLoop, MetaGradient, Plan, Variables, draw_plan

__all__ = [
    "AST",
    "AST_AS_RELEASED",
    "AST_TGDD",
    "ATT",
    "AT_BPTT",
    "DATM",
    "DATM_AS_RELEASED",
    "DC",
    "DM",
    "DSA",
    "FTD",
    "IDC",
    "MTT",
    "NCFM",
    "PARTS",
    "RAT_BPTT",
    "RDED",
    "TESLA",
    "TGDD",
    "Adam",
    "AdaptiveTruncation",
    "BackPropagationThroughTraining",
    "Backprop",
    "BalancedWeight",
    "BalancedWeightAsReleased",
    "CharacteristicMatching",
    "Choice",
    "Classifier",
    "Clusters",
    "CorrectInit",
    "CropInit",
    "Cycle",
    "DistributionMatching",
    "Estimator",
    "ExpertLabels",
    "ExpertTargetsAsReleased",
    "FileInit",
    "FinalMatchingLoss",
    "FirstOrder",
    "GradientMatching",
    "GrowingWindow",
    "HardLabels",
    "ImageInit",
    "Initial",
    "InnerLoop",
    "InnerWeight",
    "IntermediateMatchingLoss",
    "IntermediateMatchingLossAsReleased",
    "LogSyntheticLr",
    "LossThreshold",
    "Matching",
    "MatchingLoss",
    "MetaGradient",
    "Method",
    "Nearest",
    "NearestMatchingLoss",
    "NoiseInit",
    "Objective",
    "OuterStep",
    "Perturbation",
    "Plan",
    "RawSyntheticLr",
    "RealInit",
    "RealTrainedGradientMatching",
    "Recompute",
    "RepresentativeInit",
    "RepresentativeInitAsReleased",
    "SegmentLabels",
    "SegmentSampler",
    "Selection",
    "Setup",
    "Sgd",
    "SiameseGradientMatching",
    "StepFilter",
    "StepSettings",
    "StepState",
    "StepWork",
    "StudentOptimiser",
    "SyntheticLabels",
    "SyntheticLr",
    "TrajectoryGuidedMatching",
    "TrajectoryMatching",
    "Truncated",
    "UniformSampler",
    "UnitNormInit",
    "Variables",
    "WeightLabels",
    "WeightPerturbation",
    "WeightPerturbationAsReleased",
    "draw_plan",
    "find_method",
    "methods",
]


def __getattr__(name: str) -> Any:
    """Return a component by its name in version 0.1, with a DeprecationWarning that gives the new name."""
    new = todays_name(name)
    if new == name or new not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    warnings.warn(f"{name} is now {new}; the old name goes with the next release.", DeprecationWarning, stacklevel=2)
    return globals()[new]
