"""What people look at: the distilled images, the course of a run, the quality of experts, and a page of all of it."""

from .curves import save_curves
from .page import PAGE, renew_page, run_of, save_page
from .pictures import colours, file_name, save_grid, save_labelled, save_picture, sheet
from .quality import epoch_table, quality_table, save_quality
from .relatives import record_experts
from .textures import save_textures

__all__ = [
    "PAGE",
    "colours",
    "epoch_table",
    "file_name",
    "quality_table",
    "record_experts",
    "renew_page",
    "run_of",
    "save_curves",
    "save_grid",
    "save_labelled",
    "save_page",
    "save_picture",
    "save_quality",
    "save_textures",
    "sheet",
]
