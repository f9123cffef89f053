"""What people look at: pictures, figures, tables, and the page of a run."""

from .experts import record_experts
from .figures import epoch_table, quality_table, save_curves, save_quality
from .page.page import renew_page, save_page
from .pictures import colours, file_name, save_grid, save_labelled, save_picture, save_textures, sheet

__all__ = [
    "colours",
    "epoch_table",
    "file_name",
    "quality_table",
    "record_experts",
    "renew_page",
    "save_curves",
    "save_grid",
    "save_labelled",
    "save_page",
    "save_picture",
    "save_quality",
    "save_textures",
    "sheet",
]
