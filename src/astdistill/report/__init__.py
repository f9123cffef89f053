"""Pictures, figures, tables and the HTML page of a run. Names are imported on first use, because drawing needs torch
and watching a run does not."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .figures import save_quality
    from .page.page import save_page
    from .pictures import save_grid, save_textures

_MODULES = {"save_grid": "pictures", "save_page": "page.page", "save_quality": "figures", "save_textures": "pictures"}

__all__ = [
    "save_grid",
    "save_page",
    "save_quality",
    "save_textures",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"astdistill.report has no '{name}'; its names are {', '.join(__all__)}.")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
