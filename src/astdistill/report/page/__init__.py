"""The page that a run ends in: one HTML file."""

from .page import PAGE, renew_page, save_page

__all__ = [
    "PAGE",
    "renew_page",
    "save_page",
]
