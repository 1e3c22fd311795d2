"""Names written at the ends of lines, moved apart where they would overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vitucb.report.runs import FloatArray
from vitucb.report.theme import LineStyle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FONT_POINTS = 9.0
_LINE_POINTS = 12.5
_POINTS_PER_CHARACTER = 5.3
_LEADER_POINTS = 16.0
_MAX_CHARACTERS = 36


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


def shorten(text: str) -> str:
    """`text`, its middle cut out if it is longer than a label may be."""
    if len(text) <= _MAX_CHARACTERS:
        return text
    half = _MAX_CHARACTERS // 2
    return f"{text[: half - 1]}…{text[-half:]}"


def label_width_inches(texts: Sequence[str]) -> float:
    """Room that the widest of `texts` needs right of the axes."""
    longest = max((len(shorten(text)) for text in texts), default=0)
    return (_LEADER_POINTS + 8 + _POINTS_PER_CHARACTER * longest) / 72


def label_line_ends(axes: Axes, ends: Sequence[LineEnd]) -> None:
    """Write each text right of the axes, level with its line or joined to it by a leader.

    Ends outside the vertical range are skipped, and of more than fit the highest. Call it when the
    limits are final.
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
            shorten(end.text),
            color=end.style.colour,
            fontsize=_FONT_POINTS,
            va="center_baseline",
            transform=axes.transAxes,
        )


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
