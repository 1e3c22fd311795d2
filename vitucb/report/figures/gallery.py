"""Arm images of chosen rounds: what was on offer, what the agent thought, what was true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitucb.report.figures.labels import shorten
from vitucb.report.figures.layout import current
from vitucb.report.figures.theme import colour
from vitucb.report.formatting import number
from vitucb.report.runs import Gallery

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_ROWS = 5
_IMAGE_PIXELS = 112
_LEFT_INCHES = 1.35
_BAR_INCHES = 0.8
_FADED = 0.25  # opacity of what was not on offer


def gallery_rows(gallery: Gallery) -> list[int]:
    """The recorded rounds that are shown, at most five spread evenly."""
    return _spaced(len(gallery.round), _MAX_ROWS)


def gallery_figure(
    gallery: Gallery, names: Sequence[str] = (), rows: Sequence[int] | None = None
) -> Figure:
    """One row per recorded round: images above, estimates with bonus and truth below them.

    Args:
        gallery: What was on offer.
        names: Names of the classes, or of the arms where all share one image; numbers without.
        rows: Those to show; the legend is above the first of `gallery_rows`, which are the default.
    """
    from matplotlib.figure import Figure

    every, layout = gallery_rows(gallery), current()
    rows = every if rows is None else rows
    arms = min(gallery.expected_rewards.shape[1], layout.gallery_arms)
    total = layout.width_inches
    cell = min(1.0, (total - _LEFT_INCHES - 0.15) / arms)
    row_height = 0.9 * cell + _BAR_INCHES + 0.42
    legend_columns = 5 if total > 6 else 3
    above = (0.36 if legend_columns == 5 else 0.6) if every[0] in rows else 0.06
    height = row_height * len(rows) + above + 0.06
    figure = Figure(figsize=(total, height))
    if every[0] in rows:
        is_known = bool(np.isfinite(gallery.expected_rewards).any())
        _legend(figure, legend_columns, is_truth_known=is_known)
    for index, row in enumerate(rows):
        top = height - above - index * row_height
        width = cell * arms
        image_box = (_LEFT_INCHES, top - 0.06 - 0.9 * cell, width, 0.9 * cell)
        bar_box = (_LEFT_INCHES, image_box[1] - 0.04 - _BAR_INCHES, width, _BAR_INCHES)
        shown = _shown_arms(gallery, row, arms)
        _draw_images(_axes(figure, image_box, height), gallery, row, shown)
        bars = _axes(figure, bar_box, height)
        _draw_estimates(bars, gallery, row, shown)
        texts = [shorten(_name(gallery, row, arm, names), 68 * cell) for arm in shown.tolist()]
        bars.set_xticks(np.arange(len(shown)), texts, fontsize=8)
        figure.text(0.0, (top - 0.12) / height, _caption(gallery, row), va="top", linespacing=1.5)
    return figure


def _name(gallery: Gallery, row: int, arm: int, names: Sequence[str]) -> str:
    """What the arm is called: by its class, or by itself where all share an image."""
    if gallery.classes is not None:
        number = int(gallery.classes[row, arm])
        return names[number] if 0 <= number < len(names) else str(number)
    is_named = gallery.images.shape[1] == 1 and len(names) == gallery.mean.shape[1]
    return names[arm] if is_named else str(arm)


def _spaced(count: int, most: int) -> list[int]:
    picked = np.unique(np.linspace(0, count - 1, min(count, most)).round())
    return [int(row) for row in picked]


def _axes(figure: Figure, box: tuple[float, float, float, float], height: float) -> Axes:
    left, bottom, width, tall = box
    total = figure.get_figwidth()
    return figure.add_axes((left / total, bottom / height, width / total, tall / height))


def _shown_arms(gallery: Gallery, row: int, arms: int) -> NDArray[np.int64]:
    """All arms if they fit; else the chosen, the best, and those on offer of the highest truth."""
    ranked = np.lexsort((-gallery.expected_rewards[row], ~gallery.on_offer(row)))
    first = [int(gallery.action[row]), int(gallery.optimal_action[row])]
    kept = [arm for arm in dict.fromkeys([*first, *ranked.tolist()]) if arm >= 0][:arms]
    return np.array(sorted(kept))


def _draw_images(axes: Axes, gallery: Gallery, row: int, arms: NDArray[np.int64]) -> None:
    from matplotlib.patches import Rectangle

    # One image that all arms share is drawn once, above the chosen one.
    is_shared, on_offer = gallery.images.shape[1] == 1, gallery.on_offer(row)
    for x, arm in enumerate(arms.tolist()):
        if not is_shared or arm == gallery.action[row]:
            axes.imshow(
                _resized(gallery.images[row, 0 if is_shared else arm]),
                extent=(x - 0.42, x + 0.42, 0, 0.84),
                interpolation="nearest",
                cmap="gray",
                alpha=1.0 if on_offer[arm] else _FADED,
            )
        if arm == gallery.action[row]:
            frame = Rectangle((x - 0.45, -0.03), 0.9, 0.9, fill=False, linewidth=2.6)
            frame.set_edgecolor(colour("vermillion"))
            axes.add_patch(frame)
        if arm == gallery.optimal_action[row]:  # -1 where it is not known
            axes.plot(
                [x + 0.34],
                [0.76],
                "*",
                color=colour("green"),
                markersize=12,
                markeredgecolor=colour("page"),
                markeredgewidth=1.0,
            )
    axes.set_xlim(-0.5, len(arms) - 0.5)
    axes.set_ylim(-0.05, 0.89)
    axes.set_aspect("auto")
    axes.axis("off")


def _draw_estimates(axes: Axes, gallery: Gallery, row: int, arms: NDArray[np.int64]) -> None:
    x = np.arange(len(arms))
    is_shown = gallery.on_offer(row)[arms]
    mean = np.where(is_shown, gallery.mean[row, arms], np.nan)
    bonus = np.nan_to_num(gallery.bonus[row, arms])
    axes.vlines(x, mean - bonus, mean + bonus, color=colour("blue"), linewidth=5, alpha=0.35)
    axes.plot(x, mean, "o", color=colour("blue"), markersize=4.5)
    truth = np.where(is_shown, gallery.expected_rewards[row, arms], np.nan)
    axes.hlines(truth, x - 0.3, x + 0.3, color=colour("green"), linewidth=2)
    axes.set_xlim(-0.5, len(arms) - 0.5)
    axes.set_ylim(*_limits(gallery, row, arms[is_shown]))
    axes.tick_params(axis="x", length=0, pad=1)
    axes.tick_params(axis="y", labelsize=8)
    axes.locator_params(axis="y", nbins=3)


def _limits(gallery: Gallery, row: int, arms: NDArray[np.int64]) -> tuple[float, float]:
    """Room for truth, means and bonuses; a huge first bonus may not flatten the means."""
    truth, mean = gallery.expected_rewards[row, arms], gallery.mean[row, arms]
    known = np.concatenate([part[np.isfinite(part)] for part in (truth, mean)])
    if not len(known):
        return -1.0, 1.0
    mean = np.where(np.isfinite(mean), mean, np.where(np.isfinite(truth), truth, known.mean()))
    bonus = np.nan_to_num(gallery.bonus[row, arms])
    low, high = float(known.min()), float(known.max())
    span = high - low or 1.0
    low = max(low - span, min(low, float((mean - bonus).min())))
    high = min(high + span, max(high, float((mean + bonus).max())))
    pad = 0.08 * (high - low or 1.0)
    return low - pad, high + pad


def _caption(gallery: Gallery, row: int) -> str:
    chosen = gallery.action[row]
    truth = gallery.expected_rewards[row]
    # Of those on offer: the recorder knew them, and older versions did not write it down.
    regret = float(truth.max() - truth[chosen] if gallery.regret is None else gallery.regret[row])
    lines = [f"round {int(gallery.round[row]) + 1:,}", f"reward {gallery.reward[row]:.3g}"]
    return "\n".join([*lines, *([f"regret {number(regret)}"] if np.isfinite(regret) else [])])


def _legend(figure: Figure, columns: int, *, is_truth_known: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(fill=False, edgecolor=colour("vermillion"), linewidth=2.2, label="chosen"),
        Line2D(
            [], [], marker="*", linestyle="", markersize=11, color=colour("green"), label="best"
        ),
        Line2D([], [], color=colour("green"), linewidth=2, label="true mean"),
        Line2D([], [], marker="o", linestyle="", color=colour("blue"), label="estimated mean"),
        Patch(color=colour("blue"), alpha=0.35, linewidth=0, label="± bonus"),
    ]
    if not is_truth_known:
        del handles[1:3]
    figure.legend(
        handles=handles,
        loc="upper left",
        ncols=min(columns, len(handles)),
        frameon=False,
        bbox_to_anchor=((_LEFT_INCHES - 0.1) / figure.get_figwidth() if columns > 3 else 0.0, 1.0),
        borderaxespad=0,
        handlelength=1.4,
        columnspacing=1.6,
        fontsize=9,
        labelcolor=colour("muted"),
    )


def _resized(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Small images enlarged by whole pixels, large ones averaged, near 112 pixels wide."""
    from PIL import Image

    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    size = max(picture.size)
    if size > _IMAGE_PIXELS:
        return np.asarray(picture.reduce(size // _IMAGE_PIXELS))
    factor = _IMAGE_PIXELS // size
    enlarged = (picture.width * factor, picture.height * factor)
    return np.asarray(picture.resize(enlarged, Image.Resampling.NEAREST))
