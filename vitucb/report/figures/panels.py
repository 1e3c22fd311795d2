"""Panels, axes and lines that figures share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitucb.report.figures.labels import (
    TICKS_INCHES,
    LineEnd,
    label_line_ends,
    label_width_inches,
    text_points,
)
from vitucb.report.figures.layout import WIDE, current
from vitucb.report.figures.legends import draw_legend, legend_inches
from vitucb.report.figures.theme import LineStyle
from vitucb.statistics import Band, FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator

WIDTH_INCHES = WIDE.width_inches
"""Width of a figure as wide as the page."""

_MIN_PANEL_INCHES = 1.2
_BELOW_INCHES = 0.52
_ABOVE_INCHES = 0.38
_EDGE_INCHES = 0.12
# Beside the axes of a paper: the second line of a label of the y axis.
_SECOND_LINE_INCHES = 0.14
# How far such a label may reach past the ends of its axis.
_PAST_AXES_POINTS = 10.0


def make_panels(
    labels: Sequence[Collection[str]],
    ratios: Sequence[float],
    *,
    height: float,
    width: float = 1.0,
) -> tuple[Figure, list[Axes]]:
    """A figure with panels as the layout in use has them, each with room for its labels.

    Args:
        labels: What is written at the lines of each panel, or below it.
        ratios: Widths of the panels relative to each other, where they lie side by side.
        height: Inches of the wide page's figure.
        width: Share of that page's width.
    """
    layout = current()
    if layout.is_stacked:
        return _stacked(labels, height * layout.height_scale)
    if layout.has_legends:
        return _with_legends(labels, ratios, height * layout.height_scale)
    return _side_by_side(labels, ratios, height, WIDTH_INCHES * width)


def _side_by_side(
    labels: Sequence[Collection[str]], ratios: Sequence[float], height: float, total: float
) -> tuple[Figure, list[Axes]]:
    """Panels with room for labels on the right; where long ones left no width, they get less."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(total, height))
    named = sum(bool(texts) for texts in labels)
    most = label_room_inches(total, len(ratios)) / max(1, named)
    rooms = [min(most, label_width_inches(texts)) if texts else 0.1 for texts in labels]
    free = total - sum(rooms) - TICKS_INCHES * len(ratios)
    all_axes, left = [], TICKS_INCHES
    for room, ratio in zip(rooms, ratios, strict=True):
        span = free * ratio / sum(ratios)
        box = (left / total, _BELOW_INCHES / height, span / total, 1 - 0.9 / height)
        all_axes.append(figure.add_axes(box))
        left += span + room + TICKS_INCHES
    return figure, all_axes


def _stacked(labels: Sequence[Collection[str]], height: float) -> tuple[Figure, list[Axes]]:
    """Panels below each other, each with its title above and its legend below."""
    from matplotlib.figure import Figure

    total = current().single_inches
    span = total - TICKS_INCHES - _EDGE_INCHES
    legends = [legend_inches(texts, span) for texts in labels]
    whole = sum(height + legend for legend in legends)
    figure = Figure(figsize=(total, whole))
    all_axes, top = [], whole
    for legend in legends:
        bottom = top - height + _BELOW_INCHES
        tall = height - _BELOW_INCHES - _ABOVE_INCHES
        box = (TICKS_INCHES / total, bottom / whole, span / total, tall / whole)
        all_axes.append(figure.add_axes(box))
        top -= height + legend
    return figure, all_axes


def _with_legends(
    labels: Sequence[Collection[str]], ratios: Sequence[float], height: float
) -> tuple[Figure, list[Axes]]:
    """Panels side by side, each with its legend below; one alone fills a column."""
    from matplotlib.figure import Figure

    layout = current()
    total = layout.single_inches if len(ratios) == 1 else layout.width_inches
    before = TICKS_INCHES + (0.0 if layout.has_titles else _SECOND_LINE_INCHES)
    free = total - (before + _EDGE_INCHES) * len(ratios)
    spans = [free * ratio / sum(ratios) for ratio in ratios]
    legend = max(legend_inches(texts, span) for texts, span in zip(labels, spans, strict=True))
    whole = height + legend
    figure = Figure(figsize=(total, whole))
    tall = height - _BELOW_INCHES - 0.1
    all_axes, left = [], before
    for span in spans:
        box = (left / total, (legend + _BELOW_INCHES) / whole, span / total, tall / whole)
        all_axes.append(figure.add_axes(box))
        left += span + _EDGE_INCHES + before
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
    """`texts` by label at the ends of those curves that reach the last round, the first on top.

    Where the layout has legends they stand below the panel.
    """
    if current().has_legends:
        draw_legend(axes, texts, styles)
        return
    ends = {label: float(curves[label][-1]) for label in reversed(list(texts))}
    label_line_ends(
        axes,
        [LineEnd(y, texts[label], styles[label]) for label, y in ends.items() if np.isfinite(y)],
    )


def finish_axes(
    axes: Axes, title: str, rounds: NDArray[np.int64], *, zero_based: bool = True
) -> None:
    """Title, label and ticks of the round axis, limits from 0 to the last round."""
    if current().has_titles:
        axes.set_title(title)
    else:
        axes.set_ylabel(_in_lines(title, axes))
    axes.set_xlabel("round")
    if zero_based:
        axes.set_xlim(0, rounds[-1])
        axes.xaxis.set_major_locator(_round_locator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        if axes.get_ylim()[1] >= 1000:
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _in_lines(title: str, axes: Axes) -> str:
    """`title` in as many lines as the height of the axes needs: beyond the figure it is cut off."""
    figure = axes.get_figure(root=True)
    assert figure is not None  # every axes here is made by figure.add_axes
    room = 72 * figure.get_figheight() * axes.get_position().height + _PAST_AXES_POINTS
    lines = [""]
    for word in title.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and text_points(longer) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def _round_locator() -> Locator:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10], integer=True)
