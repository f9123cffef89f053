"""What people look at: pictures, figures, tables, and the page of a run. Names load on first use, because drawing needs
torch and watching a run does not."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .experts import record_experts
    from .figures import epoch_table, quality_table, save_curves, save_quality
    from .page.page import renew_page, save_page
    from .pictures import colours, file_name, save_grid, save_labelled, save_picture, save_textures, sheet

_HOMES = {
    "record_experts": "experts",
    **dict.fromkeys(("epoch_table", "quality_table", "save_curves", "save_quality"), "figures"),
    **dict.fromkeys(("renew_page", "save_page"), "page.page"),
    **dict.fromkeys(
        ("colours", "file_name", "save_grid", "save_labelled", "save_picture", "save_textures", "sheet"), "pictures"
    ),
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"astdistill.report has no '{name}'; its names are {', '.join(__all__)}.")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
