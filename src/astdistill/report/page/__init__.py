"""The page that a run ends in: one HTML file."""

from .page import renew_page, save_page

__all__ = [
    "renew_page",
    "save_page",
]
