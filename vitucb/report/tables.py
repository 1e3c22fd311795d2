"""The numbers of a report as CSV files."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from vitucb.inert_text import csv_cell
from vitucb.report.analysis import UNKNOWN, AgentResult, Analysis, plotted_rounds
from vitucb.report.runs import Run
from vitucb.report.series import overall_coverage
from vitucb.storage.atomic_files import write_durably

Cell: TypeAlias = str | int | float
Table: TypeAlias = tuple[Sequence[str], Sequence[Sequence[Cell]]]
"""Header and rows."""

_FIGURES_OF_MERIT = (
    "final_regret",
    "interquartile_regret",
    "normalised_regret",
    "auc",
    "tail_slope",
    "growth_exponent",
)
_COUNTS = ("trainable_parameters", "adapter_parameters", "tracked_features")


def write_tables(analysis: Analysis, folder: Path, prefix: str) -> None:
    """Write summary, comparisons, runs, curves and costs of one group; NaN is an empty cell."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "summary": _summary(analysis),
        "comparisons": _comparisons(analysis),
        "runs": _runs(analysis),
        "curves": _curves(analysis),
        "costs": _costs(analysis),
    }
    for name, (header, rows) in tables.items():
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(["" if _is_nan(c) else csv_cell(c) for c in row] for row in rows)
        write_durably(folder / f"{prefix}{name}.csv", text.getvalue())


def costs(result: AgentResult) -> dict[str, float]:
    """Time, image passes, memory and parameters, means over runs; NaN where not recorded."""
    seconds = result.seconds_per_round
    speed = 1 / seconds if seconds > 0 else math.nan
    summaries = [run.summary for run in result.runs if run.is_finished]
    names = ("image_passes", "wall_seconds", "peak_memory_mib")
    measured = {name: _mean(summaries, name) for name in names}
    parameters = [summary.get("parameters") or {} for summary in summaries]
    counts = {name: _mean(parameters, name) for name in _COUNTS}
    return {"rounds_per_second": speed, "seconds_per_round": seconds, **measured, **counts}


def _mean(records: Sequence[Mapping[str, Any]], name: str) -> float:
    known = [float(record[name]) for record in records if record.get(name) is not None]
    return float(np.mean(known)) if known else math.nan


def _is_nan(cell: Cell) -> bool:
    return isinstance(cell, float) and math.isnan(cell)


def _with_bounds(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"]


def _costs(analysis: Analysis) -> Table:
    by_label = {result.label: costs(result) for result in analysis.results}
    header = ["agent", *by_label[analysis.main.label]]
    return header, [[label, *values.values()] for label, values in by_label.items()]


def _summary(analysis: Analysis) -> Table:
    header = ["agent", "agent_name", "seeds", "rounds"]
    header += [end for name in (*_FIGURES_OF_MERIT, "mean_reward") for end in _with_bounds(name)]
    header += ["coverage", "seconds_per_round"]
    header += [end for name in ("last_reward", "reward_over_random") for end in _with_bounds(name)]
    return header, [_summary_row(result, analysis.group.horizon) for result in analysis.results]


def _summary_row(result: AgentResult, horizon: int) -> list[Cell]:
    merits = [getattr(result.summary, name, UNKNOWN) for name in _FIGURES_OF_MERIT]
    gain = result.gain.difference if result.gain else UNKNOWN
    return [
        *(result.label, result.name, len(result.runs), horizon),
        *(number for merit in merits for number in merit),
        *(*result.reward, overall_coverage(result), result.seconds_per_round),
        *(*result.last_reward, *gain),
    ]


def _comparisons(analysis: Analysis) -> Table:
    header = ["agent", "rival", "pairs", *_with_bounds("difference")]
    header += ["lower_in", "higher_in", "sign_p", "wilcoxon_p", "wilcoxon_p_holm"]
    rows: list[list[Cell]] = [
        [
            *(comparison.main, comparison.rival.label, paired.num_pairs, *paired.difference),
            *(paired.num_lower, paired.num_higher, paired.sign_p),
            *(paired.wilcoxon_p, comparison.holm_p),
        ]
        for comparison in analysis.comparisons
        if (paired := comparison.paired) is not None
    ]
    return header, rows


def _runs(analysis: Analysis) -> Table:
    header = ["agent", "seed", "folder", "finished", "rounds", "regret", "reward"]
    rows: list[list[Cell]] = []
    for result in analysis.results:
        for run in result.runs:
            regret = float(run.columns["regret"][: analysis.group.horizon].sum())
            reward = float(run.columns["reward"][: analysis.group.horizon].mean())
            rows.append(_run_row(result.label, run, regret, reward))
    rows += [_run_row(run.agent, run, "", "") for run in analysis.group.unfinished]
    return header, rows


def _run_row(label: str, run: Run, regret: Cell, reward: Cell) -> list[Cell]:
    finished = "yes" if run.is_finished else "no"
    return [label, run.seed, run.folder.name, finished, run.rounds, regret, reward]


def _curves(analysis: Analysis) -> Table:
    rounds = plotted_rounds(analysis.group.horizon)
    rows: list[list[Cell]] = []
    for result in analysis.results:
        columns = (part.tolist() for part in (rounds, *result.band))
        rows += [[result.label, *values] for values in zip(*columns, strict=True)]
    return ["agent", "round", *_with_bounds(analysis.measure.name)], rows
