"""What people look at: the distilled images, the course of a run, the quality of experts."""

from .curves import save_curves
from .pictures import save_grid
from .quality import epoch_table, quality_table, save_quality

__all__ = ["epoch_table", "quality_table", "save_curves", "save_grid", "save_quality"]
