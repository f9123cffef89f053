"""Pages made of a template, and Matplotlib figures as part of a page: inline SVG whose text is text and whose colours
follow the page's, light or dark."""

from __future__ import annotations

import io
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from ..figures import COLOURS, FAINT, INK, blank, unwarned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


GRID, GROUND = "#e6e6e6", "#fcfcfa"
THEME = {INK: "currentColor", FAINT: "var(--faint)", GRID: "var(--grid)", GROUND: "var(--ground)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(COLOURS, 1)
}
"""The page's word for every colour of `canvas`."""
FAMILY = re.compile(r"(font(?:-family)?: ?[^;\"']*?)'DejaVu Sans'[^;\"]*")
IDENTITY = re.compile(r'(\bid="|url\(#|href="#)')


def panel(width: float = 3.8, height: float = 2.7) -> tuple[Figure, Axes]:
    """A transparent figure of one panel, so many inches wide and high, and its axes."""
    figure = blank(width, height)
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    return figure, axes


def svg(figure: Figure, name: str, told: str) -> Markup:
    """The figure as an <svg> element; `name` keeps its identifiers apart from other figures', `told` is read to those
    who cannot see it.

    The bytes depend on the figure and the name alone.
    """
    import matplotlib as mpl

    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), unwarned():
        figure.savefig(
            stream,
            format="svg",
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
            transparent=True,
        )
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = FAMILY.sub(r"\1var(--font)", text)
    text = IDENTITY.sub(rf"\1{name}-", text)
    for colour, word in THEME.items():
        text = re.sub(colour, word, text, flags=re.IGNORECASE)
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{escape(told)}"', text, count=1)
    return Markup(
        re.sub(r"\n\s*", "\n", text).strip()
    )  # nothing of a user's reaches it but escaped: matplotlib escapes text, this label is


def rendered(template: str, **values: Any) -> str:
    """The page that a template of this folder makes of the values, in the style of all pages."""
    from jinja2 import Environment, PackageLoader

    pages = Environment(
        loader=PackageLoader(__package__ or "", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    style = (resources.files(__package__ or "") / "page.css").read_text(encoding="utf-8")
    return pages.get_template(template).render(style=style, **values)
