"""What the main agent chose, by class, label or slot, and the bonus it gave, over rounds."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from vitucb.report.analysis import AgentResult, Analysis, plotted_rounds
from vitucb.report.figures.panels import draw_curves, finish_axes, label_curves, make_panels
from vitucb.report.figures.theme import LineStyle, colour
from vitucb.report.runs import Run, load_classes
from vitucb.report.series import has_bonus, smoothing_window, trailing_mean
from vitucb.statistics import FloatArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_logger = logging.getLogger(__name__)
_MAX_ARMS = 10
# Equal shares of slots there are right and say nothing.
_SHUFFLED = ("vitucb/ImageArms-v0", "vitucb/RatedItems-v0", "vitucb/Creatives-v0")
_COLOURS = ("blue", "vermillion", "green", "purple", "ochre", "sky", "slate")
_DASHES = ("-", (0, (4, 1.5)))


@dataclass(frozen=True, slots=True)
class Choices:
    """What an agent chose in every round.

    Attributes:
        kind: What is counted: `class`, `label` or `arm`.
        numbers: Their numbers, int64 (S, T).
        names: Their names by number; empty where they have none.
    """

    kind: Literal["class", "label", "arm"]
    numbers: NDArray[np.int64]
    names: Sequence[str] = ()

    def name(self, number: int) -> str:
        """What to write at the line of a number."""
        return self.names[number] if number < len(self.names) else f"{self.kind} {number}"


def chosen(result: AgentResult) -> Choices | None:
    """The choices of an agent; None where arms are shuffled and nobody tells what they were."""
    run, horizon = result.runs[0], result.values.shape[1]
    classes = [_classes(each) for each in result.runs]
    known = [each[:horizon] for each in classes if each is not None]
    if len(known) == len(classes):
        return Choices("class", np.stack(known), run.arm_names)
    env = run.config.get("env")
    options = env.get("options") if isinstance(env, Mapping) else None
    keeps_slots = isinstance(options, Mapping) and options.get("shuffle_slots") is False
    if run.env in _SHUFFLED and not keeps_slots:
        return None
    names = run.arm_names if run.environment.get("action_names") else ()
    numbers = result.column("action").astype(np.int64)
    return Choices("label" if names else "arm", numbers, names)


def _classes(run: Run) -> NDArray[np.int64] | None:
    try:
        return load_classes(run)
    except ValueError as error:
        _logger.warning("%s; what it chose is not shown by class", error)
        return None


def arms_figure(analysis: Analysis) -> Figure | None:
    """Share and bonus of the ten most frequent choices; None where they say nothing."""
    main, choices = analysis.main, chosen(analysis.main)
    if choices is None:
        return None
    actions = choices.numbers
    pulls = np.bincount(actions.ravel())
    arms = np.argsort(-pulls, kind="stable")[:_MAX_ARMS]
    arms = np.sort(arms[pulls[arms] > 0])
    if len(arms) < 2:
        return None
    panels = [(f"Share of the choices so far, by {choices.kind}", _shares(actions, arms))]
    if has_bonus(main):
        panels.append((f"Bonus of the {choices.kind} when chosen", _bonuses(main, actions, arms)))
    names = [choices.name(arm) for arm in arms]
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
