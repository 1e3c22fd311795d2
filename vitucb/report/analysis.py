"""The numbers behind a report: one result per agent, one comparison per rival of the main agent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitucb.agents.table import FAMILY_ORDER, Family, family_of
from vitucb.report.groups import Group
from vitucb.report.measure import REGRET, Measure
from vitucb.report.runs import Run
from vitucb.statistics import (
    Band,
    FloatArray,
    IntervalEstimate,
    PairedDifference,
    RegretSummary,
    bootstrap_band,
    holm_correction,
    paired_difference,
    regret_summary,
    student_interval,
)

# More would be under half a pixel apart on the page.
_MAX_POINTS = 400

UNKNOWN = IntervalEstimate(math.nan, math.nan, math.nan)
"""What the data do not tell."""


@dataclass(frozen=True, slots=True)
class AgentResult:
    """One agent over its seeds.

    Attributes:
        label: Name in the report.
        name: Registered name.
        family: What it goes by.
        runs: Its runs, sorted by seed.
        values: What agents are compared by, regret or reward, of every round (S, T), reward units.
        band: Mean of its sum up to a round with its band, at `plotted_rounds(T)`.
        total: Mean over seeds of its sum over all rounds.
        summary: Figures of merit of the regret, None where it is not known.
        reward: Mean reward per round over seeds.
        last_reward: The same over the last tenth of the rounds.
        gain: Reward of all rounds minus that of uniform play on the shared seeds, None without.
        seconds_per_round: Mean wall-clock time of choosing and learning, NaN if not recorded.
    """

    label: str
    name: str
    family: Family
    runs: Sequence[Run]
    values: FloatArray
    band: Band
    total: IntervalEstimate
    summary: RegretSummary | None
    reward: IntervalEstimate
    last_reward: IntervalEstimate
    gain: PairedDifference | None
    seconds_per_round: float

    @property
    def cumulative(self) -> FloatArray:
        """Sums up to every round (S, T)."""
        return self.values.cumsum(axis=1)

    @property
    def seeds(self) -> list[int]:
        """Seeds, ascending."""
        return [run.seed for run in self.runs]

    def column(self, name: str) -> FloatArray:
        """A column of `rounds.csv` over seeds, float64 (S, T)."""
        return np.stack([run.columns[name][: self.values.shape[1]] for run in self.runs])


@dataclass(frozen=True, slots=True)
class RivalComparison:
    """The main agent against a rival, on the seeds both have.

    Attributes:
        main: Label of the main agent.
        rival: The other agent.
        paired: Final regret (or reward) of main minus rival, None without a shared seed.
        holm_p: Wilcoxon p after Holm's correction over all rivals that share a seed; 1 without one.
        measure: What is compared.
    """

    main: str
    rival: AgentResult
    paired: PairedDifference | None
    holm_p: float
    measure: Measure = REGRET


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything a section of the report shows."""

    group: Group
    results: Sequence[AgentResult]
    main: AgentResult
    comparisons: Sequence[RivalComparison]

    @property
    def measure(self) -> Measure:
        """What the agents are compared by."""
        return self.group.measure

    def of_family(self, wanted: Family) -> list[AgentResult]:
        """The agents of one family."""
        return [result for result in self.results if result.family == wanted]


def analyse(group: Group, *, main: str | None = None) -> Analysis:
    """Compute every number of one group.

    Args:
        group: Runs to compare.
        main: Label of the agent that the others are compared with; by default vit-ucb if it
            played, else the first one.

    Raises:
        ValueError: If `main` is not among the agents.
    """
    if main is not None and main not in group.agents:
        raise ValueError(f"main {main!r} has no runs here; choose from {', '.join(group.agents)}")
    uniform = _uniform_play(group)
    results = [_result(label, runs, group, uniform) for label, runs in group.agents.items()]
    by_label = {result.label: result for result in results}
    chosen = by_label[main] if main else results[0]
    results.sort(key=lambda result: (result is not chosen, _rank(result, group.measure)))
    return Analysis(group, results, chosen, _compare(chosen, results, group.measure))


def plotted_rounds(horizon: int, *, logarithmic: bool = False) -> NDArray[np.int64]:
    """Rounds (1-based, increasing, the last is T) at which curves are drawn, at most 400."""
    space = np.geomspace if logarithmic else np.linspace
    grid = space(1, horizon, min(horizon, _MAX_POINTS))
    return np.unique(grid.round().astype(np.int64))


def compare(main: AgentResult, rival: AgentResult) -> PairedDifference | None:
    """Final regret (or reward) of `main` minus `rival` on the seeds both have; None without one."""
    ours, theirs = paired_finals(main, rival)
    return paired_difference(ours, theirs) if len(ours) else None


def paired_finals(main: AgentResult, rival: AgentResult) -> tuple[FloatArray, FloatArray]:
    """Final regrets (or rewards) of both on the seeds that both have, ascending, (n,) each."""
    ours, theirs = (
        dict(zip(result.seeds, result.values.sum(axis=1).tolist(), strict=True))
        for result in (main, rival)
    )
    shared = sorted(ours.keys() & theirs.keys())
    return np.array([ours[s] for s in shared]), np.array([theirs[s] for s in shared])


def _rank(result: AgentResult, measure: Measure) -> tuple[int, float]:
    """Contextual agents first, then the references; the best first among each."""
    return FAMILY_ORDER.index(result.family), measure.cost(result.total.value)


def _compare(
    main: AgentResult, results: Sequence[AgentResult], measure: Measure
) -> list[RivalComparison]:
    # The oracle's regret is zero by definition: nothing to test.
    rivals = [r for r in results if r is not main and r.family != "oracle"]
    paired = [compare(main, rival) for rival in rivals]
    adjusted = iter(holm_correction([p.wilcoxon_p for p in paired if p is not None]).tolist())
    return [
        RivalComparison(main.label, rival, pair, 1.0 if pair is None else next(adjusted), measure)
        for rival, pair in zip(rivals, paired, strict=True)
    ]


def _uniform_play(group: Group) -> Sequence[Run]:
    """The runs of uniform play; empty if it did not play."""
    for runs in group.agents.values():
        if family_of(runs[0].agent_name) == "random":
            return runs
    return ()


def _result(label: str, runs: Sequence[Run], group: Group, uniform: Sequence[Run]) -> AgentResult:
    horizon, name = group.horizon, group.measure.name
    values = _stack(runs, name, horizon)
    summary = _regret_summary(runs, values, uniform) if group.measure is REGRET else None
    rewards = _stack(runs, "reward", horizon)
    seconds = [float(run.summary.get("seconds_per_round", np.nan)) for run in runs]
    known = [value for value in seconds if np.isfinite(value)]
    return AgentResult(
        label=label,
        name=runs[0].agent_name,
        family=family_of(runs[0].agent_name),
        runs=runs,
        values=values,
        band=bootstrap_band(values.cumsum(axis=1)[:, plotted_rounds(horizon) - 1]),
        total=summary.final_regret if summary else _mean_estimate(values.sum(axis=1)),
        summary=summary,
        reward=_mean_estimate(rewards.mean(axis=1)),
        last_reward=_mean_estimate(rewards[:, -math.ceil(horizon / 10) :].mean(axis=1)),
        gain=_gain(runs, uniform, horizon) if uniform and runs is not uniform else None,
        seconds_per_round=float(np.mean(known)) if known else float("nan"),
    )


def _regret_summary(
    runs: Sequence[Run], regret: FloatArray, uniform: Sequence[Run]
) -> RegretSummary:
    return regret_summary(
        regret,
        random_regret=_stack(uniform, "regret", regret.shape[1]) if uniform else None,
        is_paired=[run.seed for run in runs] == [run.seed for run in uniform],
    )


def _gain(runs: Sequence[Run], uniform: Sequence[Run], horizon: int) -> PairedDifference | None:
    """Reward of all rounds beyond that of uniform play, on the seeds that both have."""
    totals = [
        {run.seed: float(run.columns["reward"][:horizon].sum()) for run in each}
        for each in (runs, uniform)
    ]
    shared = sorted(totals[0].keys() & totals[1].keys())
    ours, theirs = ([total[seed] for seed in shared] for total in totals)
    return paired_difference(ours, theirs) if shared else None


def _mean_estimate(values: FloatArray) -> IntervalEstimate:
    return IntervalEstimate(float(values.mean()), *student_interval(values))


def _stack(runs: Sequence[Run], column: str, horizon: int) -> FloatArray:
    return np.stack([run.columns[column][:horizon] for run in runs])
