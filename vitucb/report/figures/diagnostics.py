"""What agents measured of themselves while they learned: `metrics.csv` over rounds."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vitucb.report.analysis import AgentResult, Analysis, plotted_rounds
from vitucb.report.figures.labels import label_width_inches
from vitucb.report.figures.panels import (
    WIDTH_INCHES,
    draw_curves,
    finish_axes,
    label_curves,
    label_room_inches,
    make_panels,
)
from vitucb.report.figures.theme import LineStyle
from vitucb.report.runs import load_metrics
from vitucb.statistics import FloatArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_logger = logging.getLogger(__name__)
EXPERT = "expert/"
"""What the metrics of experts begin with; they have figures of their own."""

_MAX_PANELS = 6
_MAX_RUNS = 10
_MEANINGS: Mapping[str, str] = {
    "train/loss": "Training loss",
    "score/noise": "Estimated reward noise",
    "covariance/log_det": "Information gain, ln det(A / ridge)",
    "covariance/stale_ratio": "Squared width, stale / fresh",
    "covariance/certificate": "Certified error of a width",
    "covariance/drift": "Movement of features since a rebuild",
    "covariance/effective_dimension": "Effective dimension",
}
"""Titles of known metrics, in the order in which panels are filled; others follow by name."""


def diagnostics_figures(
    analysis: Analysis,
    curves: Mapping[str, Mapping[str, FloatArray]],
    styles: Mapping[str, LineStyle],
) -> list[tuple[str, Figure]]:
    """Figures of up to three panels, one metric a panel; none if no agent reported any.

    Long labels leave room for two panels beside each other. At most six metrics are shown.

    Args:
        analysis: Which rounds are shown.
        curves: Metric curves by agent, as `metric_curves` returns them.
        styles: How each agent is drawn.
    """
    names = {name for of_agent in curves.values() for name in of_agent}
    names = {name for name in names if not name.startswith(EXPERT)}
    names &= {name for own in curves.values() for name, curve in own.items() if _moves(curve)}
    known = [name for name in _MEANINGS if name in names]
    order = known + sorted(names - set(known))
    order = order[:_MAX_PANELS]
    widest = label_width_inches([label for label, own in curves.items() if names & own.keys()])
    has_room = label_room_inches(WIDTH_INCHES, 3) >= 3 * widest
    panels = 3 if has_room else 2
    rows = [order[i : i + panels] for i in range(0, len(order), panels)]
    return [
        (f"diagnostics-{i}" if i else "diagnostics", _figure(row, curves, styles, analysis))
        for i, row in enumerate(rows)
    ]


def _figure(
    names: Sequence[str],
    curves: Mapping[str, Mapping[str, FloatArray]],
    styles: Mapping[str, LineStyle],
    analysis: Analysis,
) -> Figure:
    rounds = plotted_rounds(analysis.group.horizon)
    labels = [[label for label, own in curves.items() if name in own] for name in names]
    figure, all_axes = make_panels(labels, [1.0] * len(names), height=3.3)
    for axes, name, shown in zip(all_axes, names, labels, strict=True):
        lines = {label: curves[label][name] for label in shown}
        draw_curves(axes, rounds, lines, styles)
        finish_axes(axes, _MEANINGS.get(name, name), rounds)
        label_curves(axes, lines, styles, {label: label for label in shown})
    return figure


def metric_curves(result: AgentResult, horizon: int) -> dict[str, FloatArray]:
    """Every metric of an agent at `plotted_rounds(horizon)`; NaN before its first.

    Curves are means over the first ten seeds, joined by lines between the rounds of its records.
    """
    at = plotted_rounds(horizon) - 1
    collected: dict[str, list[FloatArray]] = {}
    for run in result.runs[:_MAX_RUNS]:
        try:
            metrics = load_metrics(run)
        except ValueError as error:
            _logger.warning("%s; its diagnostics are left out", error)
            continue
        for name, (rounds, values) in metrics.items():
            curve = np.interp(at, rounds, values, left=np.nan)
            collected.setdefault(name, []).append(curve)
    return {name: _mean(np.stack(parts)) for name, parts in collected.items()}


def _moves(curve: FloatArray) -> bool:
    """Whether a metric changed over the rounds; one that never does is a setting, not news."""
    known = curve[np.isfinite(curve)]
    return len(known) > 0 and float(np.ptp(known)) > 1e-9 * float(np.abs(known).max())


def _mean(values: FloatArray) -> FloatArray:
    """Mean over the first axis of the entries that are finite, NaN where there is none."""
    known = np.isfinite(values)
    counts = known.sum(axis=0)
    sums = np.where(known, values, 0.0).sum(axis=0)
    mean: FloatArray = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return mean
