"""The templates of the pages, filled; `base.html` is the frame of all of them."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any


def filled(template: str, **values: Any) -> str:
    """The template of that name as HTML, with the style that all pages share."""
    from jinja2 import Environment, PackageLoader

    pages = Environment(
        loader=PackageLoader(__package__ or "", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return pages.get_template(template).render(style=source("page.css"), **values)


def source(name: str) -> str:
    """The text of a file beside the templates."""
    return (resources.files(__package__ or "") / name).read_text(encoding="utf-8")


def policy(script: str = "") -> str:
    """The content security policy: nothing from elsewhere, pictures written into the page, and the page's one script.

    The script stands between two line ends in the template, which its digest covers.
    """
    allowed = ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'"]
    if script:
        digest = base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode()
        allowed.append(f"script-src 'sha256-{digest}'")
    return "; ".join([*allowed, "base-uri 'none'", "form-action 'none'"])
