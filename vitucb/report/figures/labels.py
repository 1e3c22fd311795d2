"""Names written at the ends of lines, moved apart where they would overlap."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vitucb.report.figures.theme import LineStyle
from vitucb.statistics import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FONT_POINTS = 9.0
_LINE_POINTS = 12.5
# Measured on DejaVu Sans at 9 points, the widest of the fonts a page is seen in.
_POINTS_PER_CHARACTER = 5.3
_POINTS_PER_CAPITAL = 6.9
_POINTS_PER_IDEOGRAPH = 9.2
_LEADER_POINTS = 16.0
_MARGIN_POINTS = 8.0
_MAX_CHARACTERS = 36
TICKS_INCHES = 0.62
"""Room left of every axes for its tick labels."""


@dataclass(frozen=True, slots=True)
class LineEnd:
    """Where a line ends, in data units, and what to write there."""

    y: float
    text: str
    style: LineStyle


def spread(positions: FloatArray, gap: float, low: float, high: float) -> FloatArray:
    """The nearest positions (least squares) that keep their order, `gap` and the range.

    Args:
        positions: Wanted positions (n,), in any order.
        gap: Smallest distance between neighbours; shrunk if n of them do not fit.
        low: Smallest position allowed.
        high: Largest position allowed.

    Returns:
        Positions (n,) in the given order.
    """
    order = np.argsort(positions, kind="stable")
    count = len(positions)
    gap = min(gap, (high - low) / max(1, count - 1))
    offsets = gap * np.arange(count)
    # Subtracting the offsets turns "gap apart" into "non-decreasing": isotonic regression.
    fitted = _isotonic(positions[order] - offsets)
    clipped = np.clip(fitted, low, high - gap * (count - 1)) + offsets
    moved = np.empty(count)
    moved[order] = clipped
    return moved


def shorten(text: str, points: float | None = None) -> str:
    """`text`, its middle cut out if it is longer than a label may be, or wider than `points`."""
    kept = min(len(text), _MAX_CHARACTERS)
    while points is not None and kept > 2 and text_points(_without_middle(text, kept)) > points:
        kept -= 1
    return _without_middle(text, kept)


def text_points(text: str) -> float:
    """Width of `text` at 9 points, about."""
    return sum(map(_character_points, text))


def label_width_inches(texts: Iterable[str]) -> float:
    """Room that the widest of `texts` needs right of the axes."""
    widest = max((text_points(shorten(text)) for text in texts), default=0.0)
    return (_LEADER_POINTS + _MARGIN_POINTS + widest) / 72


def label_line_ends(axes: Axes, ends: Sequence[LineEnd]) -> None:
    """Write each text right of the axes, level with its line or joined to it by a leader.

    Ends outside the vertical range are skipped, and of more than fit the highest; texts wider than
    the room lose their middle. Call it when the limits are final and all axes are there.
    """
    bottom, top = axes.get_ylim()
    capacity = int(axes.bbox.height * 72 / _dpi(axes) / _LINE_POINTS)
    shown = sorted((end for end in ends if bottom <= end.y <= top), key=lambda end: end.y)
    shown = shown[:capacity]
    if not shown:
        return
    width_points, height_points = (
        extent * 72 / _dpi(axes) for extent in (axes.bbox.width, axes.bbox.height)
    )
    to_points = axes.transData + axes.transAxes.inverted()
    fractions = to_points.transform([(axes.get_xlim()[1], end.y) for end in shown])[:, 1]
    at = spread(fractions * height_points, _LINE_POINTS, 2.0, height_points) / height_points
    step = _LEADER_POINTS / width_points
    room = _room_points(axes) - _LEADER_POINTS
    for end, start, y in zip(shown, fractions, at, strict=True):
        axes.plot(
            [1.0, 1 + 0.35 * step, 1 + 0.8 * step],
            [start, y, y],
            color=end.style.colour,
            linewidth=0.8,
            transform=axes.transAxes,
            clip_on=False,
            solid_joinstyle="round",
        )
        axes.text(
            1 + step,
            y,
            shorten(end.text, room),
            color=end.style.colour,
            fontsize=_FONT_POINTS,
            va="center_baseline",
            transform=axes.transAxes,
        )


def _without_middle(text: str, kept: int) -> str:
    """The first and the last of `kept` characters, with an ellipsis for what is left out."""
    if len(text) <= kept:
        return text
    last = kept // 2
    return f"{text[: kept - last - 1]}…{text[len(text) - last :]}"


def _character_points(character: str) -> float:
    if unicodedata.combining(character):
        return 0.0
    if unicodedata.east_asian_width(character) in "WF":
        return _POINTS_PER_IDEOGRAPH
    return _POINTS_PER_CAPITAL if character.isupper() else _POINTS_PER_CHARACTER


def _room_points(axes: Axes) -> float:
    """From the right edge of `axes` to the tick labels of the next ones, or to the figure's."""
    figure = axes.get_figure(root=True)
    assert figure is not None  # every axes here is made by figure.add_axes
    width, edge = figure.get_figwidth(), axes.get_position().x1
    starts = [other.get_position().x0 * width - TICKS_INCHES for other in figure.axes]
    ends = [start for start in starts if start > edge * width]
    return float(72 * (min(ends, default=width) - edge * width))


def _dpi(axes: Axes) -> float:
    figure = axes.get_figure(root=True)
    assert figure is not None  # every axes here is made by figure.add_axes
    return figure.dpi


def _isotonic(values: FloatArray) -> FloatArray:
    """Pool adjacent violators: the non-decreasing sequence nearest to `values`."""
    sums: list[float] = []
    sizes: list[int] = []
    for value in values.tolist():
        sums.append(value)
        sizes.append(1)
        while len(sums) > 1 and sums[-2] / sizes[-2] > sums[-1] / sizes[-1]:
            total, size = sums.pop(), sizes.pop()
            sums[-1] += total
            sizes[-1] += size
    return np.repeat(np.array(sums) / np.array(sizes), sizes)
