"""What a policy would have gained over a log: every estimate of it, and the reference policies."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vitucb.evaluation.comparison import PolicyEstimate
from vitucb.evaluation.evaluate import Evaluation
from vitucb.report.figures.labels import label_width_inches, shorten
from vitucb.report.figures.panels import WIDTH_INCHES
from vitucb.report.figures.theme import colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW_INCHES = 0.34


def gains_figure(evaluation: Evaluation) -> Figure:
    """A row per estimate, with its interval; the estimator to read in blue."""
    from matplotlib.figure import Figure

    rows = [*evaluation.estimates, *evaluation.references]
    names = [e.name for e in evaluation.estimates]
    names += [shorten(e.policy) for e in evaluation.references]
    height = 0.95 + _ROW_INCHES * len(rows)
    figure = Figure(figsize=(WIDTH_INCHES, height))
    left = 1.06 * label_width_inches(names) / WIDTH_INCHES
    axes = figure.add_axes((left, 0.62 / height, 0.97 - left, 1 - 0.72 / height))
    for row, estimate in enumerate(rows):
        is_read = estimate is evaluation.advised
        _draw_row(axes, -row, estimate, "blue" if is_read else "slate")
    axes.axvline(0, color=colour("muted"), linewidth=1)
    axes.set_ylim(-len(rows) + 0.4, 0.6)
    axes.set_yticks([-row for row in range(len(rows))], names, color=colour("ink"))
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(
        lambda value, _: f"{value:+,g}".replace("-", "−") if value else "0"
    )
    axes.tick_params(axis="y", pad=10)
    axes.set_xlabel("mean reward per round minus the log's (right of 0: more reward)")
    return figure


def _draw_row(axes: Axes, y: float, estimate: PolicyEstimate, tone: str) -> None:
    if not math.isfinite(estimate.gain):
        return
    width = 2.6 if tone == "blue" else 1.8
    axes.plot([estimate.gain_low, estimate.gain_high], [y, y], color=colour(tone), linewidth=width)
    axes.plot([estimate.gain], [y], "D", color=colour(tone), markersize=6.5 if width > 2 else 5)
