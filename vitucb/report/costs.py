"""What every agent costs: time, memory, parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from vitucb.report.analysis import AgentResult, Analysis
from vitucb.report.formatting import number
from vitucb.report.runs import Run

_COUNTS: Mapping[str, str] = {
    "trainable_parameters": "trained",
    "adapter_parameters": "adapters",
    "tracked_features": "features",
}
_HEADINGS = ("agent", "rounds / s", "ms / round", "wall clock, s", "peak memory, MiB")


def cost_rows(analysis: Analysis) -> tuple[list[str], list[list[str | float]]]:
    """Header and one row per agent, NaN where nothing was recorded: means over its runs."""
    header = ["agent", "rounds_per_second", "seconds_per_round", "wall_seconds"]
    header += ["peak_memory_mib", *_COUNTS]
    return header, [_row(result) for result in analysis.results]


def costs_html(analysis: Analysis) -> str:
    """The cost table; empty if nothing was recorded."""
    _, rows = cost_rows(analysis)
    if not any(np.isfinite(cell) for row in rows for cell in row[1:] if isinstance(cell, float)):
        return ""
    head = "".join(f"<th scope='col'>{h}</th>" for h in (*_HEADINGS, *_COUNTS.values()))
    body = "".join(
        f'<tr><th scope="row">{escape(str(label))}</th>'
        + "".join(f"<td>{_cell(value)}</td>" for value in _shown(values))
        + "</tr>"
        for label, *values in rows
    )
    return (
        '<h2>Cost</h2><div class="scroll"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
        '<p class="meta">Means over runs. Times are those of choosing and learning, without the '
        "environment; wall clock and memory are of the whole process, so agents that shared a "
        "process share its peak. Trained: parameters that learn; adapters: those among them that "
        "belong to LoRA; features: length of what enters the covariance.</p>"
    )


def _row(result: AgentResult) -> list[str | float]:
    seconds = result.seconds_per_round
    speed = 1 / seconds if seconds > 0 else float("nan")
    finished = [run for run in result.runs if run.is_finished]
    timed: Sequence[float] = [_mean(finished, name) for name in ("wall_seconds", "peak_memory_mib")]
    counts = [_mean_count(finished, name) for name in _COUNTS]
    return [result.label, speed, seconds, *timed, *counts]


def _shown(values: Sequence[str | float]) -> list[float]:
    """The numbers of a row in the units of the headings."""
    speed, seconds, *rest = (float(value) for value in values)
    return [speed, 1000 * seconds, *rest]


def _mean(runs: Sequence[Run], name: str) -> float:
    known = [float(run.summary[name]) for run in runs if run.summary.get(name) is not None]
    return float(np.mean(known)) if known else float("nan")


def _mean_count(runs: Sequence[Run], name: str) -> float:
    counts = [(run.summary.get("parameters") or {}).get(name) for run in runs]
    known = [float(count) for count in counts if count is not None]
    return float(np.mean(known)) if known else float("nan")


def _cell(value: float) -> str:
    if not np.isfinite(value):
        return ""
    return f"{value:,.0f}" if value >= 1000 else number(value)
