"""Expert networks and their trajectories."""

from .recipe import ExpertCurve, ExpertRecipe
from .store import Segment, StoreIdentity, TrajectoryStore
from .training import train_experts

__all__ = [
    "ExpertCurve",
    "ExpertRecipe",
    "Segment",
    "StoreIdentity",
    "TrajectoryStore",
    "train_experts",
]
