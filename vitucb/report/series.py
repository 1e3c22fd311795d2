"""Series that figures and tables share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vitucb.report.analysis import AgentResult
from vitucb.statistics import FloatArray, coverage


def smoothing_window(horizon: int) -> int:
    """Rounds of the trailing mean: a twentieth of the horizon, at least 10."""
    return min(horizon, max(10, horizon // 20))


def trailing_mean(values: FloatArray, window: int) -> FloatArray:
    """Mean of the last `window` values along the last axis, of fewer at the start.

    Args:
        values: Shape (..., T); NaN entries are left out of the mean.
        window: Number of rounds, at least 1.
    """
    known = np.isfinite(values)
    sums = _windowed(np.where(known, values, 0.0), window)
    counts = _windowed(known.astype(np.float64), window)
    return np.where(counts > 0.5, sums / np.maximum(counts, 1.0), np.nan)


def covered(result: AgentResult) -> FloatArray:
    """Whether the chosen arm's true mean lay in mean +- bonus, 0 or 1 (S, T); NaN if unknown."""
    mean, bonus, truth = (result.column(name) for name in ("mean", "bonus", "expected_reward"))
    inside = (np.abs(truth - mean) <= bonus).astype(np.float64)
    return np.where(np.isfinite(truth) & np.isfinite(mean) & np.isfinite(bonus), inside, np.nan)


def overall_coverage(result: AgentResult) -> float:
    """Share of rounds in which mean +- bonus of the chosen arm held its true mean."""
    if not (has_bonus(result) and compares_means(result)):
        return float("nan")
    mean, bonus = result.column("mean"), result.column("bonus")
    return coverage(result.column("expected_reward"), mean - bonus, mean + bonus)


def _windowed(values: FloatArray, window: int) -> FloatArray:
    sums = values.cumsum(axis=-1)
    sums[..., window:] = sums[..., window:] - sums[..., :-window]
    return sums


def compares_means(result: AgentResult) -> bool:
    """Whether an agent's means are those of the rewards, and not of clicks in the last position."""
    env = result.runs[0].config.get("env")
    slate = env.get("slate") if isinstance(env, Mapping) else None
    return not (isinstance(slate, Mapping) and slate.get("examination"))


def has_bonus(result: AgentResult) -> bool:
    """Whether mean +- bonus is an interval for this agent."""
    if result.family in ("random", "oracle"):
        return False
    bonus = result.column("bonus")
    known = bonus[np.isfinite(bonus)]
    # A Thompson draw's "bonus" may be negative: then mean +- bonus is no interval.
    return bool(len(known)) and bool((known >= 0).all()) and bool((known > 0).any())
