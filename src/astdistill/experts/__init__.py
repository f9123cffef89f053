"""Expert networks and their trajectories."""

from .curves import ExpertCurve
from .recipe import ExpertRecipe
from .store import Segment, StoreIdentity, TrajectoryStore
from .training import train_experts

__all__ = ["ExpertCurve", "ExpertRecipe", "Segment", "StoreIdentity", "TrajectoryStore", "train_experts"]
