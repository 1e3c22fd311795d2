"""Legends below panels, where there is no room for names at the ends of lines."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from vitucb.report.figures.labels import shorten, text_points
from vitucb.report.figures.theme import LineStyle, colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW_INCHES = 0.19
_FONT_POINTS = 8.5
_HANDLE_POINTS = 38.0
# Below the axis: its tick labels and its label.
_OFFSET_INCHES = 0.52


def legend_columns(texts: Collection[str], width_inches: float) -> int:
    """Columns that fit a legend `width_inches` wide, at least one."""
    widest = max((text_points(shorten(text)) for text in texts), default=0.0) + _HANDLE_POINTS
    return max(1, min(len(texts), int(width_inches * 72 / widest)))


def legend_inches(texts: Collection[str], width_inches: float) -> float:
    """Height of the legend of `texts`, 0 without any."""
    if not texts:
        return 0.0
    return ROW_INCHES * math.ceil(len(texts) / legend_columns(texts, width_inches)) + 0.06


def draw_legend(axes: Axes, texts: Mapping[str, str], styles: Mapping[str, LineStyle]) -> None:
    """Lines and names below the round axis, from the left edge of the panel's tick labels on."""
    from matplotlib.lines import Line2D

    if not texts:
        return
    figure = axes.get_figure(root=True)
    assert figure is not None  # every axes here is made by figure.add_axes
    box = axes.get_position()
    height = box.height * figure.get_figheight()
    width = box.width * figure.get_figwidth()
    handles = [
        Line2D([], [], color=style.colour, linestyle=style.dash, linewidth=style.width)
        for style in (styles[label] for label in texts)
    ]
    axes.legend(
        handles,
        [shorten(text, 72 * width - _HANDLE_POINTS) for text in texts.values()],
        loc="upper left",
        bbox_to_anchor=(0.0, -_OFFSET_INCHES / height),
        ncols=legend_columns(texts.values(), width),
        frameon=False,
        fontsize=_FONT_POINTS,
        labelcolor=colour("ink"),
        borderaxespad=0,
        borderpad=0,
        handlelength=2.0,
        handletextpad=0.5,
        columnspacing=1.0,
        labelspacing=0.35,
    )
