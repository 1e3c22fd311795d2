"""Where a figure will be seen: wide on a screen, on a phone, in the column of a paper.

The layout in use is a context, like matplotlib's own settings: every figure drawn inside
`using(layout)` has it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Layout:
    """How figures are laid out.

    Attributes:
        name: What it is called.
        single_inches: Width of a figure with one panel.
        width_inches: Width of the others.
        is_stacked: Whether panels lie below each other rather than side by side.
        has_legends: Whether names stand in a legend below each panel, not at the ends of lines.
        has_titles: Whether panels have a title; else that is the label of their y axis.
        height_scale: Of panels, relative to those of the wide page.
        gallery_arms: Arms that a gallery shows at most.
        settings: Matplotlib settings beside those of the theme.
    """

    name: Literal["wide", "small", "paper"]
    single_inches: float
    width_inches: float
    is_stacked: bool = False
    has_legends: bool = False
    has_titles: bool = True
    height_scale: float = 1.0
    gallery_arms: int = 16
    settings: Mapping[str, Any] = field(default_factory=dict)


WIDE = Layout("wide", 10.4, 10.4)
# A screen of 390 CSS pixels shows 4.4 inches of it at about its own size.
SMALL = Layout(
    "small", 4.4, 4.4, is_stacked=True, has_legends=True, height_scale=0.75, gallery_arms=5
)
# One column and the whole width of the usual two-column papers (IEEE, ACM, ICML).
_PAPER_POINTS = {
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
}
PAPER = Layout(
    "paper",
    3.35,
    6.9,
    has_legends=True,
    has_titles=False,
    height_scale=0.6,
    gallery_arms=10,
    settings=_PAPER_POINTS | {"axes.labelcolor": "black", "figure.facecolor": "white"},
)

_current: ContextVar[Layout] = ContextVar("layout", default=WIDE)


def current() -> Layout:
    """The layout in use."""
    return _current.get()


@contextlib.contextmanager
def using(layout: Layout) -> Iterator[None]:
    """Draw figures in `layout`."""
    import matplotlib

    token = _current.set(layout)
    try:
        with matplotlib.rc_context(dict(layout.settings)):
            yield
    finally:
        _current.reset(token)
