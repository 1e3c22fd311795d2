"""The tables of the page, as text: the figures of merit and the costs of every agent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vitucb.report.analysis import UNKNOWN, AgentResult, Analysis
from vitucb.report.formatting import fixed, number
from vitucb.report.measure import REGRET
from vitucb.report.series import overall_coverage
from vitucb.report.tables import costs
from vitucb.statistics import IntervalEstimate


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, and what it means."""

    heading: str
    meaning: str = ""


class Cell(NamedTuple):
    """What a cell shows, and the interval below it."""

    text: str
    interval: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """The label of an agent, its cells from the second column on, and its CSS classes."""

    label: str
    cells: Sequence[Cell]
    kind: str


_FIRST_COLUMNS = (
    Column("agent", "Label of the agent."),
    Column("seeds", "Number of runs S, one per seed."),
)
_MS_PER_ROUND = Column(
    "ms / round",
    "Wall-clock milliseconds to choose and to learn, mean over runs; the environment is not "
    "counted.",
)

REGRET_COLUMNS = (
    *_FIRST_COLUMNS,
    Column("regret", "Mean over seeds of the cumulative pseudo-regret after T rounds: per round "
           "the largest mean reward on offer minus the mean reward of the chosen arm. Brackets, "
           "here and in the other columns: Student's 95 % interval over seeds; of ratios and of "
           "the exponent by the jackknife."),
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
    _MS_PER_ROUND,
)  # fmt: skip

REWARD_COLUMNS = (
    *_FIRST_COLUMNS,
    Column("total reward", "Mean over seeds of the rewards of all T rounds. Brackets, here and "
           "in the other columns: Student's 95 % interval over seeds."),
    Column("per round", "Mean observed reward per round."),
    Column("last tenth", "Mean observed reward per round over the last tenth of the rounds."),
    Column("over random", "Total reward minus that of uniformly random play on the same seeds."),
    _MS_PER_ROUND,
)  # fmt: skip

COST_COLUMNS = (
    *(Column("agent"), Column("rounds / s"), Column("ms / round"), Column("image passes / round")),
    *(Column("wall clock, s"), Column("peak memory, MiB")),
    *(Column("trained"), Column("adapters"), Column("features")),
)


def summary_columns(analysis: Analysis) -> Sequence[Column]:
    """The columns of `summary_rows`."""
    return REGRET_COLUMNS if analysis.measure is REGRET else REWARD_COLUMNS


def explained_columns(analyses: Sequence[Analysis]) -> list[Column]:
    """The columns of the tables of several groups, each once."""
    return list(dict.fromkeys(column for each in analyses for column in summary_columns(each)))


def summary_rows(analysis: Analysis) -> list[Row]:
    """The figures of merit of every agent; the best contextual agent is of kind `best`."""
    best = min(
        analysis.of_family("contextual"),
        key=lambda result: analysis.measure.cost(result.total.value),
        default=None,
    )
    return [
        Row(result.label, _summary_cells(result), f"{result.family}{' best' * (result is best)}")
        for result in analysis.results
    ]


def cost_rows(analysis: Analysis) -> list[Row]:
    """What every agent costs; empty if nothing was recorded."""
    measured = [list(costs(result).values()) for result in analysis.results]
    if not any(math.isfinite(value) for values in measured for value in values):
        return []
    return [
        Row(result.label, [Cell(_cost_text(v)) for v in (speed, 1000 * seconds, *rest)], "")
        for result, (speed, seconds, *rest) in zip(analysis.results, measured, strict=True)
    ]


def images_line(analysis: Analysis) -> str:
    """How many images there were and how often each was on offer, means over runs.

    Empty where it is not known, as of runs that were cut to a common horizon.
    """
    summaries = [run.summary for result in analysis.results for run in result.runs]
    counts = [
        (s["distinct_images"], s["offers_per_image"]) for s in summaries if s.keys() >= _RECURS
    ]
    if not counts or analysis.group.is_cut:
        return ""
    distinct, offers = (sum(column) / len(counts) for column in zip(*counts, strict=True))
    return f"Images: {distinct:,.0f} distinct, each offered {offers:,.1f} times on average."


_RECURS = {"distinct_images", "offers_per_image"}


def _summary_cells(result: AgentResult) -> list[Cell]:
    summary = result.summary
    milliseconds = 1000 * result.seconds_per_round
    first = Cell(str(len(result.runs)))
    last = Cell("" if math.isnan(milliseconds) else number(milliseconds, 2))
    if summary is None:
        gain = result.gain.difference if result.gain else UNKNOWN
        rewards = (result.total, result.reward, result.last_reward, gain)
        return [first, *map(_estimate_cell, rewards), last]
    covered = overall_coverage(result)
    estimates = (
        summary.final_regret,
        summary.normalised_regret,
        summary.auc,
        summary.tail_slope,
        summary.growth_exponent,
        result.reward,
    )
    return [
        first,
        *map(_estimate_cell, estimates),
        Cell("" if math.isnan(covered) else f"{100 * covered:.0f} %"),
        last,
    ]


def _estimate_cell(estimate: IntervalEstimate) -> Cell:
    value, low, high = estimate
    if not math.isfinite(value):
        return Cell("")
    # Random over random is 1 whichever seed is left out, to rounding.
    if not (math.isfinite(low) and math.isfinite(high)) or high - low <= 1e-9 * abs(value):
        return Cell(fixed(value, estimate._replace(low=math.nan, high=math.nan)))
    return Cell(fixed(value, estimate), f"[{fixed(low, estimate)}, {fixed(high, estimate)}]")


def _cost_text(value: float) -> str:
    if not math.isfinite(value):
        return ""
    return f"{value:,.0f}" if value >= 1000 else number(value)
