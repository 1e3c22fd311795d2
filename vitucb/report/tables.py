"""Tables of a report: the same rows as CSV files and as HTML."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TypeAlias

from vitucb.report.analysis import AgentResult, Analysis, plotted_rounds
from vitucb.report.costs import cost_rows
from vitucb.report.formatting import fixed, number
from vitucb.report.series import overall_coverage
from vitucb.statistics import IntervalEstimate

Cell: TypeAlias = str | int | float


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the summary table: its heading, and what it means."""

    heading: str
    meaning: str


SUMMARY_COLUMNS = (
    Column("agent", "Label of the agent."),
    Column("seeds", "Number of runs S, one per seed."),
    Column("regret", "Mean over seeds of the cumulative pseudo-regret after T rounds: per round "
           "the largest mean reward on offer minus the mean reward of the chosen arm. Brackets: "
           "95 % percentile bootstrap interval over seeds, whole trajectories, 10,000 resamples."),
    Column("÷ random", "Regret over the regret of uniformly random play on the same environment: "
           "1 is random, 0 is the oracle."),
    Column("area", "Area under the regret curve over the area under a straight line to random's "
           "regret: low means learnt early."),
    Column("final slope", "Mean regret per round over the last tenth of the rounds."),
    Column("exponent", "Slope of ln regret on ln round over the last nine tenths of the rounds: "
           "1 grows linearly, 0.5 like √T; below that it is flattening."),
    Column("reward", "Mean observed reward per round."),
    Column("coverage", "Share of rounds in which the chosen arm's true mean lay in its estimated "
           "mean ± bonus. Empty for agents without a bonus."),
    Column("ms / round", "Wall-clock milliseconds to choose and to learn, mean over runs; the "
           "environment is not counted."),
)  # fmt: skip


def summary_html(analysis: Analysis) -> str:
    """The summary table; the best contextual agent of each column is bold."""
    heads = "".join(
        f'<th title="{escape(column.meaning)}">{escape(column.heading)}</th>'
        for column in SUMMARY_COLUMNS
    )
    best = min(
        analysis.of_family("contextual"),
        key=lambda result: result.summary.final_regret.value,
        default=None,
    )
    body = "".join(_summary_row(result, result is best) for result in analysis.results)
    return (
        '<div class="scroll"><table class="summary">'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Write one table; NaN becomes an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow(["" if _is_nan(cell) else cell for cell in row])


def write_tables(analysis: Analysis, folder: Path, prefix: str) -> list[Path]:
    """Write summary, comparisons, runs and curves of one group as CSV.

    Returns:
        The files, in that order.
    """
    tables = {
        "summary": _summary_csv(analysis),
        "comparisons": _comparisons_csv(analysis),
        "runs": _runs_csv(analysis),
        "curves": _curves_csv(analysis),
        "costs": cost_rows(analysis),
    }
    paths = []
    for name, (header, rows) in tables.items():
        path = folder / f"{prefix}{name}.csv"
        write_csv(path, header, rows)
        paths.append(path)
    return paths


def _summary_row(result: AgentResult, is_best: bool) -> str:
    summary = result.summary
    covered, milliseconds = overall_coverage(result), 1000 * result.seconds_per_round
    cells = [
        f"<td>{len(result.runs)}</td>",
        _estimate_cell(summary.final_regret),
        _estimate_cell(summary.normalised_regret),
        _estimate_cell(summary.auc),
        _estimate_cell(summary.tail_slope),
        _estimate_cell(summary.growth_exponent),
        _estimate_cell(result.reward),
        f"<td>{'' if math.isnan(covered) else f'{100 * covered:.0f} %'}</td>",
        f"<td>{'' if math.isnan(milliseconds) else number(milliseconds, 2)}</td>",
    ]
    kinds = [result.family, "best"] if is_best else [result.family]
    return (
        f'<tr class="{" ".join(kinds)}"><th scope="row">{escape(result.label)}</th>'
        f"{''.join(cells)}</tr>"
    )


def _estimate_cell(estimate: IntervalEstimate) -> str:
    value, low, high = estimate
    if not math.isfinite(value):
        return "<td></td>"
    # Random over random is 1 in every resample, to rounding.
    if not (math.isfinite(low) and math.isfinite(high)) or high - low <= 1e-9 * abs(value):
        return f"<td>{fixed(value, estimate._replace(low=math.nan, high=math.nan))}</td>"
    interval = f"[{fixed(low, estimate)}, {fixed(high, estimate)}]"
    return f"<td>{fixed(value, estimate)}<small>{interval}</small></td>"


def _is_nan(cell: Cell) -> bool:
    return isinstance(cell, float) and math.isnan(cell)


def _spread_out(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"]


def _summary_csv(analysis: Analysis) -> tuple[list[str], list[list[Cell]]]:
    figures = (
        "final_regret",
        "interquartile_regret",
        "normalised_regret",
        "auc",
        "tail_slope",
        "growth_exponent",
    )
    header = ["agent", "agent_name", "seeds", "rounds"]
    header += [name for figure in (*figures, "mean_reward") for name in _spread_out(figure)]
    header += ["coverage", "seconds_per_round"]
    rows: list[list[Cell]] = []
    for result in analysis.results:
        row: list[Cell] = [result.label, result.name, len(result.runs), result.summary.horizon]
        for figure in figures:
            row += list(getattr(result.summary, figure))
        row += [*result.reward, overall_coverage(result), result.seconds_per_round]
        rows.append(row)
    return header, rows


def _comparisons_csv(analysis: Analysis) -> tuple[list[str], list[list[Cell]]]:
    header = ["agent", "rival", "pairs", *_spread_out("difference")]
    header += ["student_low", "student_high", "lower_in", "higher_in"]
    header += ["sign_p", "wilcoxon_p", "wilcoxon_p_holm"]
    rows: list[list[Cell]] = []
    for comparison in analysis.comparisons:
        paired = comparison.paired
        if paired is None:
            continue
        rows.append([
            comparison.main, comparison.rival.label, paired.num_pairs, *paired.difference,
            paired.student_low, paired.student_high,
            paired.num_lower, paired.num_higher, paired.sign_p, paired.wilcoxon_p,
            comparison.holm_p,
        ])  # fmt: skip
    return header, rows


def _runs_csv(analysis: Analysis) -> tuple[list[str], list[list[Cell]]]:
    header = ["agent", "seed", "folder", "finished", "rounds", "regret", "reward"]
    rows: list[list[Cell]] = []
    for result in analysis.results:
        for run, regret in zip(result.runs, result.regret.sum(axis=1).tolist(), strict=True):
            reward = float(run.columns["reward"][: analysis.group.horizon].mean())
            done = "yes" if run.is_finished else "no"
            rows.append([result.label, run.seed, run.folder.name, done, run.rounds, regret, reward])
    for run in analysis.group.unfinished:
        rows.append([run.agent, run.seed, run.folder.name, "no", run.rounds, "", ""])
    return header, rows


def _curves_csv(analysis: Analysis) -> tuple[list[str], list[list[Cell]]]:
    rounds = plotted_rounds(analysis.group.horizon)
    rows: list[list[Cell]] = []
    for result in analysis.results:
        columns = (part.tolist() for part in (rounds, *result.band))
        rows += [[result.label, *values] for values in zip(*columns, strict=True)]
    return ["agent", "round", *_spread_out("regret")], rows
