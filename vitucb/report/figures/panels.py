"""Panels, axes and lines that figures share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitucb.report.figures.labels import TICKS_INCHES, LineEnd, label_line_ends, label_width_inches
from vitucb.report.figures.theme import LineStyle
from vitucb.statistics import Band, FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator

WIDTH_INCHES = 10.4
"""Width of a figure as wide as the page."""

_MIN_PANEL_INCHES = 1.2


def make_panels(
    labels: Sequence[Collection[str]],
    ratios: Sequence[float],
    *,
    height: float,
    width: float = 1.0,
) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, each with room for its labels on the right.

    Where long labels would leave a panel no width, they get less room.
    """
    from matplotlib.figure import Figure

    total = WIDTH_INCHES * width
    figure = Figure(figsize=(total, height))
    named = sum(bool(texts) for texts in labels)
    most = label_room_inches(total, len(ratios)) / max(1, named)
    rooms = [min(most, label_width_inches(texts)) if texts else 0.1 for texts in labels]
    free = total - sum(rooms) - TICKS_INCHES * len(ratios)
    all_axes, left = [], TICKS_INCHES
    for room, ratio in zip(rooms, ratios, strict=True):
        span = free * ratio / sum(ratios)
        box = (left / total, 0.52 / height, span / total, 1 - 0.9 / height)
        all_axes.append(figure.add_axes(box))
        left += span + room + TICKS_INCHES
    return figure, all_axes


def label_room_inches(total: float, panels: int) -> float:
    """Room that `panels` side by side leave for all their labels together."""
    return total - panels * (TICKS_INCHES + _MIN_PANEL_INCHES)


def draw_line(axes: Axes, rounds: NDArray[np.int64], curve: FloatArray, style: LineStyle) -> None:
    """One curve in the style of its agent; references lie below the others."""
    order = 2 if style.is_reference else 3
    axes.plot(
        rounds, curve, color=style.colour, linestyle=style.dash, linewidth=style.width, zorder=order
    )


def draw_band(axes: Axes, rounds: NDArray[np.int64], band: Band, style: LineStyle) -> None:
    """A mean curve over its confidence band."""
    axes.fill_between(rounds, band.low, band.high, color=style.colour, alpha=0.16, linewidth=0)
    draw_line(axes, rounds, band.mean, style)


def draw_curves(
    axes: Axes,
    rounds: NDArray[np.int64],
    curves: Mapping[str, FloatArray],
    styles: Mapping[str, LineStyle],
) -> None:
    """Curves by label, the first of them on top."""
    for label in reversed(list(curves)):
        draw_line(axes, rounds, curves[label], styles[label])


def label_curves(
    axes: Axes,
    curves: Mapping[str, FloatArray],
    styles: Mapping[str, LineStyle],
    texts: Mapping[str, str],
) -> None:
    """`texts` by label at the ends of those curves that reach the last round, the first on top."""
    ends = {label: float(curves[label][-1]) for label in reversed(list(texts))}
    label_line_ends(
        axes,
        [LineEnd(y, texts[label], styles[label]) for label, y in ends.items() if np.isfinite(y)],
    )


def finish_axes(
    axes: Axes, title: str, rounds: NDArray[np.int64], *, zero_based: bool = True
) -> None:
    """Title, label and ticks of the round axis, limits from 0 to the last round."""
    axes.set_title(title)
    axes.set_xlabel("round")
    if zero_based:
        axes.set_xlim(0, rounds[-1])
        axes.xaxis.set_major_locator(_round_locator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        if axes.get_ylim()[1] >= 1000:
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _round_locator() -> Locator:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10], integer=True)
