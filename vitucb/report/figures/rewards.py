"""Cumulative reward, for environments that do not know their mean rewards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from vitucb.report.analysis import AgentResult, Analysis, plotted_rounds
from vitucb.report.figures.panels import draw_band, finish_axes, label_curves, make_panels
from vitucb.report.figures.theme import LineStyle
from vitucb.report.formatting import before_number, fixed
from vitucb.statistics import Band, IntervalEstimate, bootstrap_band

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reward_figure(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Figure:
    """Cumulative reward with 95 % bands, and what it is beyond that of uniform play.

    Sums of rewards all look like straight lines; the second panel, drawn where uniform play shared
    seeds, is paired by seed and shows what they differ in.
    """
    rounds = plotted_rounds(analysis.group.horizon)
    panels = [("Cumulative reward", {r.label: r.band for r in analysis.results})]
    gains = _gains(analysis)
    if gains:
        panels.append(("More than random play, paired by seed", gains))
    texts = [
        {label: f"{before_number(label)}  {_last(band)}" for label, band in bands.items()}
        for _, bands in panels
    ]
    figure, all_axes = make_panels(
        [each.values() for each in texts], [1.0] * len(panels), height=4.3
    )
    for axes, (title, bands), labels in zip(all_axes, panels, texts, strict=True):
        for label, band in reversed(bands.items()):
            draw_band(axes, rounds, band, styles[label])
        axes.set_xlim(0, rounds[-1])
        finish_axes(axes, title, rounds)
        label_curves(axes, {label: band.mean for label, band in bands.items()}, styles, labels)
    return figure


def _gains(analysis: Analysis) -> dict[str, Band]:
    """Cumulative reward minus that of uniform play on the seeds that both have, by label."""
    uniform = next(iter(analysis.of_family("random")), None)
    if uniform is None:
        return {}
    learners = [result for result in analysis.results if result is not uniform]
    found = {result.label: _gain(result, uniform) for result in learners}
    return {label: band for label, band in found.items() if band is not None}


def _gain(result: AgentResult, uniform: AgentResult) -> Band | None:
    shared = sorted(set(result.seeds) & set(uniform.seeds))
    if not shared:
        return None
    ours, theirs = (
        each.cumulative[[each.seeds.index(seed) for seed in shared]] for each in (result, uniform)
    )
    return bootstrap_band((ours - theirs)[:, plotted_rounds(ours.shape[1]) - 1])


def _last(band: Band) -> str:
    last = IntervalEstimate(*(float(part[-1]) for part in band))
    return fixed(last.value, last) if np.isfinite(last.value) else ""
