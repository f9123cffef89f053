"""Matplotlib figures as inline SVG, with text kept as text and colours that follow the light or dark theme of the
page."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from ..figures import COLOURS, FAINT, INK, blank, unwarned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


GRID, GROUND = "#e6e6e6", "#fcfcfa"
THEME = {INK: "currentColor", FAINT: "var(--faint)", GRID: "var(--grid)", GROUND: "var(--ground)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(COLOURS, 1)
}
"""The page's CSS colour for every colour of a figure."""
FAMILY = re.compile(r"(font(?:-family)?: ?[^;\"']*?)'DejaVu Sans'[^;\"]*")
IDENTITY = re.compile(r'(\bid="|url\(#|href="#)')


def panel(width: float = 3.8, height: float = 2.7) -> tuple[Figure, Axes]:
    """A transparent figure of one panel, `width` × `height` inches, and its axes."""
    figure = blank(width, height)
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    return figure, axes


def svg(figure: Figure, name: str, description: str) -> Markup:
    """The figure as an <svg> element. `name` makes its identifiers unique in the page; `description` is its text for
    screen readers.

    The bytes depend only on the figure and the name.
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
    for colour, css in THEME.items():
        text = re.sub(colour, css, text, flags=re.IGNORECASE)
    text = re.sub(
        r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{escape(description)}"', text, count=1
    )
    return Markup(
        re.sub(r"\n\s*", "\n", text).strip()
    )  # user text is escaped: matplotlib escapes text in figures, the label is escaped here
