"""Renders the templates of the pages; `base.html` is the frame of all of them."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def filled(template: str, **values: Any) -> str:
    """The rendered template of that name as HTML, with the style that all pages share."""
    return _environment().get_template(template).render(style=source("page.css"), **values)


@cache
def _environment() -> Environment:
    """The jinja2 environment, cached so that each template is compiled once."""
    from jinja2 import Environment, PackageLoader

    return Environment(
        loader=PackageLoader(__package__ or "", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )


def source(name: str) -> str:
    """The text of a file in the folder of the templates."""
    return (resources.files(__package__ or "") / name).read_text(encoding="utf-8")


def policy(script: str = "") -> str:
    """The content security policy: no external resources, embedded pictures, and the page's one script.

    The template has the script between two newlines, which the digest includes.
    """
    allowed = ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'"]
    if script:
        digest = base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode()
        allowed.append(f"script-src 'sha256-{digest}'")
    return "; ".join([*allowed, "base-uri 'none'", "form-action 'none'"])
