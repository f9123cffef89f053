"""MTT: matching training trajectories."""

from __future__ import annotations

from .method import Method

MTT = Method(
    name="mtt",
    paper="Cazenavette et al., Dataset Distillation by Matching Training Trajectories, arXiv 2203.11932, Algorithm 1 and equation 2",
)
"""Plain SGD experts, real initial images, no student momentum, the final parameters matched."""
