"""The page that a run ends in: one HTML file."""

from .page import PAGE, save_page

__all__ = ["PAGE", "save_page"]
