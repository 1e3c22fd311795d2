"""What the experts that an agent mixes weighed in its predictions, and when they slept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitucb.report.analysis import Analysis, plotted_rounds
from vitucb.report.figures.diagnostics import EXPERT
from vitucb.report.figures.panels import draw_curves, finish_axes, label_curves, make_panels
from vitucb.report.figures.theme import LineStyle, series_styles
from vitucb.report.formatting import before_number
from vitucb.statistics import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_AGENTS = 4
_MAX_EXPERTS = 12
_PANELS = 2
# Height of a bar of sleep, and of one with the space above it, in units of weight.
_BAR, _BAR_STEP = 0.02, 0.035


def experts_figures(
    analysis: Analysis, curves: Mapping[str, Mapping[str, FloatArray]]
) -> list[tuple[str, Figure]]:
    """Weights of the experts over rounds, a panel an agent; none where no agent mixes any.

    At most four agents and the twelve experts of most weight are shown. Below zero a bar in the
    colour of an expert marks where it slept in at least half of the seeds.

    Args:
        analysis: Which agents there are, the main one first.
        curves: Metric curves by agent, as `metric_curves` returns them.
    """
    weights = {r.label: _heaviest(_of_kind(curves[r.label], "weight")) for r in analysis.results}
    # One alone always weighs all.
    mixing = [label for label, own in weights.items() if len(own) > 1][:_MAX_AGENTS]
    # One colour an expert, whichever agent mixes it.
    names = list(dict.fromkeys(name for label in mixing for name in weights[label]))
    styles, rounds = series_styles(names), plotted_rounds(analysis.group.horizon)
    figures: list[tuple[str, Figure]] = []
    for start in range(0, len(mixing), _PANELS):
        shown = mixing[start : start + _PANELS]
        figure, all_axes = make_panels(
            [weights[label] for label in shown], [1.0] * len(shown), height=3.5
        )
        for axes, label in zip(all_axes, shown, strict=True):
            asleep = _of_kind(curves[label], "asleep")
            _draw(axes, label, rounds, weights[label], asleep, styles)
        figures.append((f"experts-{len(figures)}" if figures else "experts", figure))
    return figures


def _draw(
    axes: Axes,
    label: str,
    rounds: NDArray[np.int64],
    weights: Mapping[str, FloatArray],
    asleep: Mapping[str, FloatArray],
    styles: Mapping[str, LineStyle],
) -> None:
    draw_curves(axes, rounds, weights, styles)
    # NaN before the first record compares as awake.
    slept = {name: asleep[name] >= 0.5 for name in weights if name in asleep}
    sleepers = [name for name, is_asleep in slept.items() if is_asleep.any()]
    for place, name in enumerate(sleepers, 1):
        _draw_sleep(axes, rounds, slept[name], -place * _BAR_STEP, styles[name])
    axes.set_ylim(-(len(sleepers) + 0.5) * _BAR_STEP if sleepers else 0, 1.02)
    axes.set_yticks(np.linspace(0, 1, 5))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    finish_axes(axes, f"Weights of experts, {before_number(label)}", rounds)
    label_curves(axes, weights, styles, {name: name for name in weights})


def _draw_sleep(
    axes: Axes,
    rounds: NDArray[np.int64],
    is_asleep: NDArray[np.bool_],
    bottom: float,
    style: LineStyle,
) -> None:
    """A bar for every stretch of sleep, each up to the next plotted round."""
    edges = np.append(rounds, rounds[-1])
    spans = [(edges[i], edges[i + 1] - edges[i]) for i in np.flatnonzero(is_asleep)]
    axes.broken_barh(spans, (bottom, _BAR), facecolors=style.colour, linewidth=0, alpha=0.75)


def _heaviest(weights: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """The experts of most weight over all rounds, in the order in which they are mixed."""
    totals = {name: float(np.nansum(curve)) for name, curve in weights.items()}
    kept = set(sorted(totals, key=lambda name: -totals[name])[:_MAX_EXPERTS])
    return {name: curve for name, curve in weights.items() if name in kept}


def _of_kind(curves: Mapping[str, FloatArray], kind: str) -> dict[str, FloatArray]:
    """The metrics `expert/KIND/NAME` by NAME."""
    start = f"{EXPERT}{kind}/"
    return {n.removeprefix(start): curve for n, curve in curves.items() if n.startswith(start)}
