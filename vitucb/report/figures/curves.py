"""Curves over rounds: regret, learning, growth and calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitucb.report.analysis import AgentResult, Analysis, plotted_rounds
from vitucb.report.figures.layout import current
from vitucb.report.figures.panels import (
    draw_band,
    draw_curves,
    finish_axes,
    label_curves,
    make_panels,
)
from vitucb.report.figures.theme import LineStyle, colour
from vitucb.report.formatting import before_number, fixed, number
from vitucb.report.measure import REGRET
from vitucb.report.series import (
    compares_means,
    covered,
    has_bonus,
    smoothing_window,
    trailing_mean,
)
from vitucb.statistics import Band, FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The zoomed panel is drawn when the worst agent is this many times above the contextual ones.
_DWARFING = 2.0
_MAX_SEED_LINES = 12
_MIN_GROWTH_ROUNDS = 20


def regret_figure(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Figure:
    """Cumulative regret with 95 % bands; a second panel zooms in where random dwarfs the rest."""
    results, rounds = analysis.results, plotted_rounds(analysis.group.horizon)
    texts = {r.label: _value_label(r) for r in results}
    ceiling = _zoom_ceiling(analysis)
    if ceiling is None:
        figure, (axes,) = make_panels([texts.values()], [1], height=4.3)
        axes.set_ylim(*_range(results, _seed_curves(results, rounds)))
        _draw_seeds(axes, rounds, results, styles)
        _draw_bands(axes, rounds, results, styles, texts)
        finish_axes(axes, "Cumulative regret", rounds)
        return figure
    far = {r.label: texts[r.label] for r in results if r.band.mean[-1] > ceiling}
    near = {label: text for label, text in texts.items() if label not in far}
    far = texts if current().has_legends else far
    figure, (axes, zoomed) = make_panels([far.values(), near.values()], [0.8, 1], height=4.3)
    axes.set_ylim(*_range(results))
    _draw_bands(axes, rounds, results, styles, far)
    finish_axes(axes, "Cumulative regret", rounds)
    _mark_zoom(axes, ceiling)
    zoomed.set_ylim(0, ceiling)
    _draw_seeds(zoomed, rounds, [r for r in results if r.label in near], styles)
    _draw_bands(zoomed, rounds, results, styles, near)
    finish_axes(zoomed, "The same, zoomed in", rounds)
    return figure


def learning_figure(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Figure:
    """Regret per round and the share of rounds with the best arm, over a trailing window."""
    window = smoothing_window(analysis.group.horizon)
    panels: list[tuple[str, Callable[[AgentResult], FloatArray]]] = [
        (f"{analysis.measure.name.capitalize()} per round", lambda result: result.values),
    ]
    # A round of a slate may have negative regret, and the best slate arms that are not the best.
    has_slates = any((result.values < -1e-12).any() for result in analysis.results)
    if analysis.measure is REGRET and not has_slates:
        panels.append(("Share of rounds with the best arm", _best_arm))
    return _trailing_figure(analysis.results, panels, styles, window)


def growth_figure(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Figure | None:
    """Regret on log axes beside lines growing like t and sqrt(t); None if too little to show."""
    if analysis.measure is not REGRET:
        return None
    rounds = plotted_rounds(analysis.group.horizon, logarithmic=True)
    means = {r.label: r.cumulative.mean(axis=0)[rounds - 1] for r in analysis.results}
    # What is left of an oracle's regret after rounding would stretch the axis by ten decades.
    floor = 1e-9 * max(0.0, *(float(curve.max()) for curve in means.values()))
    shown = [r for r in analysis.results if means[r.label].max() > floor]
    if not shown or analysis.group.horizon < _MIN_GROWTH_ROUNDS:
        return None
    texts = {r.label: _exponent_label(r) for r in shown}
    figure, (axes,) = make_panels([texts.values()], [1], height=4.0, width=0.62)
    axes.set_xscale("log")
    axes.set_yscale("log")
    curves = {label: np.where(means[label] > floor, means[label], np.nan) for label in texts}
    _draw_guides(axes, rounds, list(curves.values()))
    draw_curves(axes, rounds, curves, styles)
    finish_axes(axes, "Growth of regret, log-log", rounds, zero_based=False)
    label_curves(axes, curves, styles, texts)
    return figure


def calibration_figure(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Figure | None:
    """How much and how well agents explore; None if no agent has a bonus."""
    explorers = [r for r in analysis.results if has_bonus(r)]
    if not explorers:
        return None
    window = smoothing_window(analysis.group.horizon)
    panels: list[tuple[str, Callable[[AgentResult], FloatArray]]] = [
        ("Share of non-greedy choices", _non_greedy),
        ("Bonus of the chosen arm", lambda result: result.column("bonus")),
    ]
    if analysis.measure is REGRET and compares_means(analysis.main):
        panels.append(("True mean inside mean ± bonus", covered))
    return _trailing_figure(explorers, panels, styles, window)


def _best_arm(result: AgentResult) -> FloatArray:
    # By regret and not by index: several arms may be best.
    return (result.values <= 1e-12).astype(np.float64)


def _non_greedy(result: AgentResult) -> FloatArray:
    action, greedy = result.column("action"), result.column("greedy_action")
    return np.where(np.isfinite(greedy), (action != greedy).astype(np.float64), np.nan)


def _zoom_ceiling(analysis: Analysis) -> float | None:
    """Top of the zoomed panel, None where one panel shows all."""
    contextual = analysis.of_family("contextual") or [analysis.main]
    highest = max(float(_upper(r.band).max()) for r in contextual)
    tallest = max(float(_upper(r.band).max()) for r in analysis.results)
    return 1.12 * highest if 0 < highest * _DWARFING < tallest else None


def _range(
    results: Sequence[AgentResult], seeds: Iterable[tuple[AgentResult, FloatArray]] = ()
) -> tuple[float, float]:
    """Limits of a panel that shows all: from zero, or lower where regret is below it.

    Args:
        results: Agents, whose means and bands are shown.
        seeds: Curves of single seeds beside them.
    """
    curves = [curve for _, curve in seeds]
    highest = [_upper(r.band) for r in results] + curves
    lowest = [r.band.mean for r in results] + curves
    top = 1.05 * max(0.0, *(float(curve.max()) for curve in highest))
    bottom = min(0.0, *(float(curve.min()) for curve in lowest))
    return bottom, top or (1.0 if bottom == 0 else 0.0)


def _upper(band: Band) -> FloatArray:
    return np.where(np.isfinite(band.high), band.high, band.mean)


def _value_label(result: AgentResult) -> str:
    return f"{before_number(result.label)}  {fixed(result.total.value, result.total)}"


def _exponent_label(result: AgentResult) -> str:
    exponent = result.summary.growth_exponent.value if result.summary else np.nan
    if not np.isfinite(exponent):
        return result.label
    return f"{before_number(result.label)}  t^{number(exponent, 2)}"


def _trailing_figure(
    results: Sequence[AgentResult],
    panels: Sequence[tuple[str, Callable[[AgentResult], FloatArray]]],
    styles: Mapping[str, LineStyle],
    window: int,
) -> Figure:
    rounds = plotted_rounds(results[0].values.shape[1])
    curves = [
        {r.label: trailing_mean(values(r), window)[:, rounds - 1].mean(axis=0) for r in results}
        for _, values in panels
    ]
    labels = [r.label for r in results]
    # Of many panels only the last has room for names.
    named = [labels if len(panels) < 3 or i == len(panels) - 1 else [] for i in range(len(panels))]
    figure, all_axes = make_panels(named, [1.0] * len(panels), height=3.5)
    for axes, (title, _), lines, texts in zip(all_axes, panels, curves, named, strict=True):
        draw_curves(axes, rounds, lines, styles)
        lowest = (float(np.nan_to_num(line).min(initial=0.0)) for line in lines.values())
        axes.set_ylim(bottom=min(lowest))
        if title.startswith(("Share", "True")):
            axes.set_ylim(0, 1.02 if _peak(lines.values()) > 0.5 else None)
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
            axes.locator_params(axis="y", nbins=5)
        finish_axes(axes, title, rounds)
        label_curves(axes, lines, styles, {label: label for label in texts})
    return figure


def _peak(curves: Iterable[FloatArray]) -> float:
    known = [curve[np.isfinite(curve)] for curve in curves]
    return max((float(curve.max()) for curve in known if len(curve)), default=0.0)


def _draw_bands(
    axes: Axes,
    rounds: NDArray[np.int64],
    results: Sequence[AgentResult],
    styles: Mapping[str, LineStyle],
    texts: Mapping[str, str],
) -> None:
    """Every mean with its band, and `texts` by label at the ends."""
    # The main agent is drawn last, on top.
    for result in reversed(results):
        draw_band(axes, rounds, result.band, styles[result.label])
    axes.set_xlim(0, rounds[-1])
    curves = {result.label: result.band.mean for result in results}
    label_curves(axes, curves, styles, texts)


def _draw_seeds(
    axes: Axes,
    rounds: NDArray[np.int64],
    results: Sequence[AgentResult],
    styles: Mapping[str, LineStyle],
) -> None:
    for result, curve in _seed_curves(results, rounds):
        axes.plot(rounds, curve, color=styles[result.label].colour, alpha=0.28, linewidth=0.6)


def _seed_curves(
    results: Sequence[AgentResult], rounds: NDArray[np.int64]
) -> list[tuple[AgentResult, FloatArray]]:
    """The regret of single seeds, of agents with few of them."""
    return [
        (result, curve)
        for result in results
        if len(result.runs) <= _MAX_SEED_LINES and result.family != "oracle"
        for curve in result.cumulative[:, rounds - 1]
    ]


def _draw_guides(axes: Axes, rounds: NDArray[np.int64], curves: Sequence[FloatArray]) -> None:
    """Lines from the first positive regret that grow like t and like sqrt(t)."""
    positive = np.concatenate([curve[curve > 0] for curve in curves])
    axes.set_ylim(float(positive.min()) * 0.8, float(positive.max()) * 1.6)
    axes.set_xlim(1, rounds[-1])
    start = float(np.exp(np.mean([np.log(curve[curve > 0][0]) for curve in curves])))
    for power in (1.0, 0.5):
        guide = start * rounds**power
        axes.plot(rounds, guide, color=colour("ash"), linewidth=0.8, alpha=0.7, zorder=0.5)
        if not current().has_titles:  # the page says below the figure what they are
            name = "t" if power == 1.0 else "\N{SQUARE ROOT}t"
            axes.annotate(name, (rounds[-1], guide[-1]), xytext=(-4, -3), ha="right", va="top",
                          textcoords="offset points", color=colour("muted"))  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.minorticks_off()


def _mark_zoom(axes: Axes, ceiling: float) -> None:
    """Shade what the zoomed panel shows."""
    axes.axhspan(0, ceiling, color=colour("grid"), alpha=0.55, linewidth=0, zorder=0)
    if not current().has_titles:
        return  # the caption of the paper says so
    axes.annotate(
        "zoomed in below ↓" if current().is_stacked else "zoomed in at right →",
        (0.99, ceiling),
        xycoords=("axes fraction", "data"),
        xytext=(0, 4),
        ha="right",
        textcoords="offset points",
        color=colour("muted"),
        fontsize=8.5,
    )
