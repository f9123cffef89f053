"""Expert networks and their trajectories."""

from .recipe import ExpertRecipe
from .store import Segment, TrajectoryStore
from .training import train_experts

__all__ = [
    "ExpertRecipe",
    "Segment",
    "TrajectoryStore",
    "train_experts",
]
