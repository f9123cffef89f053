"""What people look at: pictures, figures, tables, and the page of a run."""

from .figures import epoch_table, quality_table, save_curves, save_quality
from .page.page import PAGE, renew_page, save_page
from .pictures import colours, file_name, save_grid, save_labelled, save_picture, save_textures, sheet
from .relatives import record_experts
from .run import run_of

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
