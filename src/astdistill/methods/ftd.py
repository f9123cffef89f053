"""FTD: flat trajectory distillation, whose experts seek flat minima."""

from __future__ import annotations

from .mtt import MTT

FTD = MTT.replace(
    name="ftd",
    paper="Du et al., Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation, arXiv 2211.11004, its equations of GSAM",
    expert=MTT.expert.replace(sharpness=0.01, surrogate_gap=0.3),
    average=0.999,
)
"""Sharpness-aware experts; the moving average of the images is what is saved.

ρ is 0.01 everywhere. α differs from one data set to another; 0.3 is what DATM's published commands give these experts.
"""
