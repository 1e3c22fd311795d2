"""Which arms the main agent pulled, and the bonus it gave them, over rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitucb.report.analysis import AgentResult, Analysis, plotted_rounds
from vitucb.report.figures.panels import draw_curves, finish_axes, label_curves, make_panels
from vitucb.report.figures.theme import LineStyle, colour
from vitucb.report.series import has_bonus, smoothing_window, trailing_mean
from vitucb.statistics import FloatArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_ARMS = 10
_COLOURS = ("blue", "vermillion", "green", "purple", "ochre", "sky", "slate")
_DASHES = ("-", (0, (4, 1.5)))


def arms_figure(analysis: Analysis) -> Figure | None:
    """Share of pulls and bonus of the ten most pulled arms; None for a single arm."""
    main = analysis.main
    actions = main.column("action").astype(np.int64)
    pulls = np.bincount(actions.ravel())
    arms = np.argsort(-pulls, kind="stable")[:_MAX_ARMS]
    arms = np.sort(arms[pulls[arms] > 0])
    if len(arms) < 2:
        return None
    panels = [("Share of the pulls so far, by arm", _shares(actions, arms))]
    if has_bonus(main):
        panels.append(("Bonus of the arm when pulled", _bonuses(main, actions, arms)))
    names = [f"arm {arm}" for arm in arms]
    styles = {name: _style(index) for index, name in enumerate(names)}
    figure, all_axes = make_panels([names] * len(panels), [1.0] * len(panels), height=3.5)
    rounds = plotted_rounds(analysis.group.horizon)
    for axes, (title, curves) in zip(all_axes, panels, strict=True):
        lines = {name: curve[rounds - 1] for name, curve in zip(names, curves, strict=True)}
        draw_curves(axes, rounds, lines, styles)
        axes.set_ylim(bottom=0)
        if title.startswith("Share"):
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        finish_axes(axes, title, rounds)
        label_curves(axes, lines, styles, {name: name for name in names})
    return figure


def _shares(actions: NDArray[np.int64], arms: NDArray[np.int64]) -> list[FloatArray]:
    """Share of the pulls up to each round that went to each arm, (T,) each, all seeds together."""
    rounds = np.arange(1, actions.shape[1] + 1)
    return [(actions == arm).mean(axis=0).cumsum() / rounds for arm in arms]


def _bonuses(
    main: AgentResult, actions: NDArray[np.int64], arms: NDArray[np.int64]
) -> list[FloatArray]:
    """Trailing mean of the bonus over the rounds and seeds in which each arm was pulled."""
    window = smoothing_window(actions.shape[1])
    bonus = main.column("bonus")
    curves = []
    for arm in arms:
        pulled = (actions == arm) & np.isfinite(bonus)
        counts = pulled.mean(axis=0, dtype=np.float64)
        sums = np.where(pulled, bonus, 0.0).mean(axis=0)
        share = trailing_mean(counts, window)
        mean = trailing_mean(sums, window) / np.where(share > 1e-9, share, np.nan)
        curves.append(mean)
    return curves


def _style(index: int) -> LineStyle:
    dash = _DASHES[index // len(_COLOURS) % len(_DASHES)]
    return LineStyle(colour(_COLOURS[index % len(_COLOURS)]), dash, 1.4, False)
