"""Colours and line styles of the figures, and SVG that follows the page into dark mode.

Series colours are the colour-blind-safe set of Okabe and Ito, "Color universal design" (2008),
darkened until text in them is legible on white.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from vitucb.report.analysis import AgentResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE: Mapping[str, tuple[str, str]] = {
    "page": ("#fffffe", "#12161b"),
    "ink": ("#1f2328", "#e6e8eb"),
    "muted": ("#656d76", "#9aa4ae"),
    "grid": ("#e4e7eb", "#2b323a"),
    "blue": ("#0072b2", "#5ab6f2"),
    "vermillion": ("#b84b00", "#ff9257"),
    "green": ("#00805e", "#3ccfa4"),
    "purple": ("#a8478c", "#e69bd0"),
    "ochre": ("#8f6400", "#dcae4e"),
    "sky": ("#3a7ca5", "#a9d8f7"),
    "slate": ("#57606a", "#b3bcc6"),
    "ash": ("#6d747c", "#7f8a95"),
}
"""Colour by name, in light and in dark mode."""

_SERIES = ("blue", "vermillion", "green", "purple", "ochre", "sky")
_DASHES: Sequence[Any] = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))
_REFERENCE_DASHES: Mapping[str, Any] = {"random": (0, (4, 2)), "oracle": (0, (1, 2))}


def colour(name: str) -> str:
    """The light-mode colour of that name; pages map it to the dark one."""
    return PALETTE[name][0]


RC: Mapping[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 9.5,
    "axes.labelcolor": colour("muted"),
    "axes.edgecolor": colour("grid"),
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.titlecolor": colour("ink"),
    "grid.color": colour("grid"),
    "grid.linewidth": 0.8,
    "text.color": colour("ink"),
    # Names are the user's: a dollar sign in them begins no formula.
    "text.parse_math": False,
    "xtick.color": colour("grid"),
    "ytick.color": colour("grid"),
    "xtick.labelcolor": colour("muted"),
    "ytick.labelcolor": colour("muted"),
    "xtick.minor.visible": False,
    "ytick.major.size": 0,
    "figure.facecolor": colour("page"),
    "figure.edgecolor": "none",
    "savefig.facecolor": colour("page"),
    "svg.fonttype": "none",
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True, slots=True)
class LineStyle:
    """How one agent is drawn in every figure."""

    colour: str
    dash: Any
    width: float
    is_reference: bool


def line_styles(results: Sequence[AgentResult], main: AgentResult) -> dict[str, LineStyle]:
    """A style per label: the main agent blue and bold, references grey, the rest by position."""
    styles = {main.label: LineStyle(colour("blue"), "-", 2.4, False)}
    others = [r for r in results if r.family == "contextual" and r is not main]
    for index, result in enumerate(others):
        name = _SERIES[1 + index % (len(_SERIES) - 1)]
        dash = _DASHES[index // (len(_SERIES) - 1) % len(_DASHES)]
        styles[result.label] = LineStyle(colour(name), dash, 1.7, False)
    free = [r for r in results if r.family == "context-free" and r is not main]
    for index, result in enumerate(free):
        dash = _DASHES[(1 + index) % len(_DASHES)]
        styles[result.label] = LineStyle(colour("slate"), dash, 1.4, True)
    for result in results:
        if result.family in _REFERENCE_DASHES and result is not main:
            dash = _REFERENCE_DASHES[result.family]
            styles[result.label] = LineStyle(colour("ash"), dash, 1.4, True)
    return styles


def series_styles(names: Sequence[str]) -> dict[str, LineStyle]:
    """A style per name by position, none before the others."""
    return {
        name: LineStyle(
            colour(_SERIES[i % len(_SERIES)]), _DASHES[i // len(_SERIES) % len(_DASHES)], 1.9, False
        )
        for i, name in enumerate(names)
    }


def to_svg(figure: Figure, name: str) -> str:
    """`figure` as an SVG document, the same bytes every time.

    Args:
        figure: A matplotlib figure.
        name: Prefix of the ids, so that several SVGs may share a page.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "vitucb"})
    return buffer.getvalue()


def inline_svg(document: str, name: str, description: str) -> str:
    """An SVG document as an element of an HTML page, with its colours as CSS variables.

    Args:
        document: What `to_svg` returned.
        name: Prefix of the ids.
        description: What the figure shows, for screen readers.
    """
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # In tags only: names written in the figure stay as they are.
    svg = re.sub(r"<[^>]+>", lambda match: _inline_tag(match.group(), name), svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)


def _inline_tag(tag: str, name: str) -> str:
    """A tag with `name` before its ids and the references to them, and variables for colours."""
    tag = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', tag)
    tag = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", tag)
    tag = re.sub(r'xlink:href="#([^"]+)"', rf'xlink:href="#{name}-\1"', tag)
    for key, (light, _) in PALETTE.items():
        tag = tag.replace(light, f"var(--{key})")
    return tag


def css_variables() -> str:
    """The palette as CSS custom properties: light, dark, and light again on paper."""
    light = "".join(f"--{key}:{pair[0]};" for key, pair in PALETTE.items())
    dark = "".join(f"--{key}:{pair[1]};" for key, pair in PALETTE.items())
    return (
        f":root{{color-scheme:light dark;{light}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    )
