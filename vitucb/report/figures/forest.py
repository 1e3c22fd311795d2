"""Paired differences as a forest plot: the main agent against every rival, seed by seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vitucb.report.analysis import Analysis, RivalComparison, paired_finals
from vitucb.report.figures.labels import label_width_inches, shorten, text_points
from vitucb.report.figures.layout import current
from vitucb.report.figures.panels import WIDTH_INCHES
from vitucb.report.figures.theme import colour
from vitucb.report.formatting import estimate_text
from vitucb.report.sentences import verdict
from vitucb.statistics import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW_INCHES = 0.4
_NARROW_ROW_INCHES = 0.55
# Of a row: how far above its line names and numbers stand in narrow figures.
_ABOVE_ROW = 0.36
_TITLE_INCHES = 0.38
_MIN_AXES_INCHES = 3.0
# How far intervals may widen the axis, in lengths of what the seeds span.
_INTERVAL_REACH = 2.0
_TOTALS = {"regret": "final regret", "reward": "total reward"}


def difference_figure(analysis: Analysis) -> Figure | None:
    """Final regret (or reward) of the main agent minus each rival's; None if no seed is shared."""
    from matplotlib.figure import Figure

    compared = [c for c in analysis.comparisons if c.paired is not None]
    if not compared:
        return None
    is_narrow = current().has_legends
    row_inches = _NARROW_ROW_INCHES if is_narrow else _ROW_INCHES
    above = _TITLE_INCHES if current().has_titles else 0.05
    height = 0.67 + above + row_inches * len(compared)
    total = current().single_inches
    figure = Figure(figsize=(total, height))
    names = [shorten(f"vs {c.rival.label}") for c in compared]
    left, width = (0.1 / total, 1 - 0.2 / total) if is_narrow else _left_and_width(names, compared)
    axes = figure.add_axes((left, 0.52 / height, width, 1 - (0.52 + above) / height))
    limits = _limits(analysis, compared)
    axes.set_xlim(*limits)
    for row, comparison in enumerate(compared):
        _draw_row(axes, -row, comparison, _seed_gaps(analysis, comparison))
    axes.axvline(0, color=colour("muted"), linewidth=1)
    axes.set_ylim(-len(compared) + 0.4, 0.6)
    places = [-row for row in range(len(compared))]
    axes.set_yticks(places, [""] * len(names) if is_narrow else names, color=colour("ink"))
    if is_narrow:
        _write_above(axes, names)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}".replace("-", "−"))
    axes.tick_params(axis="y", pad=10)
    if current().has_titles:
        name = shorten(analysis.main.label, 120.0 if is_narrow else None)
        axes.set_title(f"{name} minus each rival{'' if is_narrow else ', paired by seed'}")
    side = "left" if analysis.measure.sign > 0 else "right"
    axes.set_xlabel(
        f"difference in {_TOTALS[analysis.measure.name]} "
        f"({side} of 0: {analysis.measure.better} {analysis.measure.name})"
    )
    return figure


def _draw_row(axes: Axes, y: float, comparison: RivalComparison, gaps: FloatArray) -> None:
    paired = comparison.paired
    assert paired is not None  # filtered by the caller
    value, low, high = paired.difference
    tone = colour(
        {"better": "blue", "worse": "vermillion", "open": "slate"}[
            verdict(paired, comparison.measure)
        ]
    )
    left, right = axes.get_xlim()
    parts = [value, *gaps, *(end for end in (low, high) if np.isfinite(end))]
    for edge, marker, is_past in (0.0, "<", min(parts) < left), (1.0, ">", max(parts) > right):
        if is_past:
            axes.plot([edge], [y], marker, color=tone, markersize=8, clip_on=False,
                      transform=axes.get_yaxis_transform())  # fmt: skip
    axes.plot(gaps, np.full(len(gaps), y), "o", color=tone, alpha=0.35, markersize=4, mew=0)
    if np.isfinite(low):
        axes.plot([low, high], [y, y], color=tone, linewidth=2.6)
    axes.plot([value], [y], "D", color=tone, markersize=6.5)
    is_narrow = current().has_legends
    axes.annotate(
        estimate_text(paired.difference),
        (1.0, y + _ABOVE_ROW) if is_narrow else (1.02, y),
        xycoords=("axes fraction", "data"),
        ha="right" if is_narrow else "left",
        color=tone,
        va="center",
        fontweight="bold",
    )


def _write_above(axes: Axes, names: list[str]) -> None:
    """Names above their rows, where there is no room left of them."""
    for row, name in enumerate(names):
        axes.annotate(
            shorten(name, 120.0),
            (0.0, _ABOVE_ROW - row),
            xycoords=("axes fraction", "data"),
            color=colour("ink"),
            va="center",
        )


def _left_and_width(names: list[str], compared: list[RivalComparison]) -> tuple[float, float]:
    """Left edge and width of the axes between the names and the numbers, shares of the figure."""
    numbers = [estimate_text(c.paired.difference) for c in compared if c.paired is not None]
    # Both are larger than labels of lines, and the numbers bold.
    left = 1.06 * label_width_inches(names)
    right = 0.25 + max(0.2 * WIDTH_INCHES - 0.25, *(1.25 * text_points(n) / 72 for n in numbers))
    width = max(_MIN_AXES_INCHES, WIDTH_INCHES - left - right)
    return left / WIDTH_INCHES, width / WIDTH_INCHES


def _seed_gaps(analysis: Analysis, comparison: RivalComparison) -> FloatArray:
    ours, theirs = paired_finals(analysis.main, comparison.rival)
    return ours - theirs


def _limits(analysis: Analysis, compared: list[RivalComparison]) -> tuple[float, float]:
    """Room for the contextual rivals: random play would squeeze them all into one point.

    Their intervals fit in from three seeds on; those of two are thirteen times as long as the seeds
    are apart.
    """
    near = [c for c in compared if c.rival.family == "contextual"] or compared
    points = np.concatenate([[0.0], *(_seed_gaps(analysis, c) for c in near)])
    low, high = float(points.min()), float(points.max())
    reach = _INTERVAL_REACH * (high - low)
    ends = [e for c in near if c.paired for e in c.paired.difference[1:] if np.isfinite(e)]
    low, high = (
        min([low, *(max(e, low - reach) for e in ends)]),
        max([high, *(min(e, high + reach) for e in ends)]),
    )
    pad = 0.08 * (high - low or 1.0)
    return low - pad, high + pad
