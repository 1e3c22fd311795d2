"""A figure for every suite of `vitucb bench`: bars on a log scale, one panel per model or size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitucb.cli.bench.results import Row, Tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Suite -> column that tells panels apart, columns that name a bar, column of its length.
_BARS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "scoring": ("model", ("what",), "x bare forward"),
    "optimizers": ("pairs", ("optimizer",), "x fused AdamW"),
    "covariance": ("features", ("covariance", "rounds"), "score and update, ms"),
    "end-to-end": ("model", ("agent",), "x bare forward"),
    "scale": ("quantity", ("value",), "x first"),
}


def draw_figures(tables: Tables, path: str | Path) -> list[Path]:
    """Draw each suite to a PNG file beside the JSON file `path`, named after both.

    Args:
        tables: Rows by suite, as `vitucb bench` measures them.
        path: Of the JSON file.

    Returns:
        The files written.
    """
    place = Path(path)
    files = [place.with_name(f"{place.stem}-{suite}.png") for suite in tables]
    for (suite, rows), file in zip(tables.items(), files, strict=True):
        _draw(suite, rows, file)
    return files


def _draw(suite: str, rows: Sequence[Row], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    of, names, length = _BARS[suite]
    panels: dict[str, dict[str, float]] = {}
    for row in rows:
        label = ", ".join(_text(row[name]) for name in names)
        panels.setdefault(str(row[of]), {})[label] = float(row[length])
    heights = [len(bars) for bars in panels.values()]
    figure, axes = plt.subplots(
        len(panels),
        1,
        figsize=(8, 0.9 * len(panels) + 0.27 * sum(heights)),
        squeeze=False,
        height_ratios=heights,
    )
    for axis, (title, bars) in zip(axes[:, 0], panels.items(), strict=True):
        _draw_bars(axis, bars)
        axis.set_title(f"{title}: {length}", fontsize=9)
        if length.startswith("x "):
            axis.axvline(1.0, color="black", linewidth=0.8)
    figure.tight_layout()
    figure.savefig(path, dpi=80, bbox_inches="tight")  # labels of bars may stick out
    plt.close(figure)


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def _draw_bars(axis: Axes, bars: Mapping[str, float]) -> None:
    drawn = axis.barh(list(bars), list(bars.values()), color="C0")
    labels = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in bars.values()]
    axis.bar_label(drawn, labels, padding=3, fontsize=8)
    axis.set_xscale("log")
    axis.margins(x=0.15)
    axis.invert_yaxis()
    axis.tick_params(labelsize=8)
