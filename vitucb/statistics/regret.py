"""Statistics of regret curves over seeds: summaries with intervals, paired comparisons.

Seeds are the unit of replication: rounds of one run depend on each other, so agents are compared
seed by seed (`paired_tests`). Seeds are few, and at a handful of them the percentile bootstrap is
too short: intervals are Student's, of ratios and slopes by the jackknife over seeds.

Source:
    Jackknife with Student's law: Tukey, "Bias and confidence in not-quite large samples", Ann.
        Math. Statist. 29 (1958); of a mean it is Student's interval itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitucb.statistics.jackknife import jackknife_half, without_each
from vitucb.statistics.paired_tests import (
    sign_test,
    student_interval,
    wilcoxon_test,
)
from vitucb.statistics.resampling import (
    FloatArray,
    as_matrix,
    bootstrap_ci,
    interquartile_mean,
)

# R_t is smooth on the fitted range, so this many evenly spaced rounds give the exponent to 1e-3.
_EXPONENT_POINTS = 1_000
# Of the sum of a million float64; the others may be rounding.
_TRUSTED_DIGITS = 9


class IntervalEstimate(NamedTuple):
    """A number with its confidence interval, NaN where the data do not define it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class RegretSummary:
    """What the regret of one agent over its seeds comes to.

    Intervals are Student's, by the jackknife over seeds where a figure is no mean; only that of the
    interquartile mean, which has no jackknife, is the percentile bootstrap's.

    Attributes:
        num_seeds: Number of runs S.
        horizon: Number of rounds T.
        final_regret: Mean over seeds of R_T, reward units.
        interquartile_regret: Interquartile mean over seeds of R_T, reward units.
        normalised_regret: R_T over the R_T of uniform play; 1 is random, 0 the oracle.
        auc: Area under R_t over the area under a straight line to the R_T of uniform play.
        tail_slope: Mean regret per round over the last tenth of the rounds, reward units.
        growth_exponent: Slope of ln R_t on ln t over t in [T/10, T]; 1 is linear, 0.5 is sqrt(T).
    """

    num_seeds: int
    horizon: int
    final_regret: IntervalEstimate
    interquartile_regret: IntervalEstimate
    normalised_regret: IntervalEstimate
    auc: IntervalEstimate
    tail_slope: IntervalEstimate
    growth_exponent: IntervalEstimate


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Differences a - b over paired seeds.

    Attributes:
        difference: Mean of a - b with Student's interval, which is wide enough at few seeds too.
        num_pairs: Number of pairs.
        num_lower: Pairs in which a < b by more than rounding.
        num_higher: Pairs in which a > b by more than rounding.
        sign_p: Two-sided sign test.
        wilcoxon_p: Two-sided Wilcoxon signed-rank test.
        smallest_p: Smallest p the signed-rank test can return with this many pairs, 2^(1 - n).
    """

    difference: IntervalEstimate
    num_pairs: int
    num_lower: int
    num_higher: int
    sign_p: float
    wilcoxon_p: float
    smallest_p: float

    @property
    def student_low(self) -> float:
        """Lower end of Student's interval."""
        return self.difference.low

    @property
    def student_high(self) -> float:
        """Upper end of it."""
        return self.difference.high


def regret_summary(
    regret: ArrayLike,
    *,
    random_regret: ArrayLike | None = None,
    is_paired: bool = True,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> RegretSummary:
    """Summarise the regret of one agent over its seeds.

    Args:
        regret: Pseudo-regret of every round (not cumulated), shape (S, T), reward units.
        random_regret: The same of uniform play, shape (S', T). Without it the normalised figures
            are NaN.
        is_paired: Whether its rows are of the same seeds in the same order, then they are left out
            together; rows of another number never are.
        confidence: Nominal coverage of the intervals, in (0, 1).
        num_resamples: Number of resamples of the interquartile mean.
        seed: Makes the resamples.

    Raises:
        ValueError: If a shape is wrong or the horizons differ, or as `bootstrap_ci`.
    """
    rounds = as_matrix(regret, "regret")
    num_seeds, horizon = rounds.shape
    curves = rounds.cumsum(axis=1)
    final, area = _Jackknifed.of_mean(curves[:, -1]), _Jackknifed.of_mean(curves.mean(axis=1))
    uniform = _uniform_play(random_regret, horizon)
    is_paired = is_paired and uniform.num_runs == num_seeds
    tail = rounds[:, -math.ceil(horizon / 10) :].mean(axis=1)
    # Under the line, the mean of t / T over t = 1..T, is (T + 1) / 2T.
    per_line = 2 * horizon / (horizon + 1)
    low, high = bootstrap_ci(
        curves[:, -1],
        confidence=confidence,
        num_resamples=num_resamples,
        statistic=interquartile_mean,
        seed=seed,
    )
    quartiles = IntervalEstimate(float(interquartile_mean(curves[:, -1])), float(low), float(high))
    return RegretSummary(
        num_seeds=num_seeds,
        horizon=horizon,
        final_regret=final.estimate(confidence),
        interquartile_regret=quartiles,
        normalised_regret=final.over(uniform, is_paired).estimate(confidence),
        auc=area.over(uniform, is_paired).times(per_line).estimate(confidence),
        tail_slope=_Jackknifed.of_mean(tail).estimate(confidence),
        growth_exponent=_exponents(curves).estimate(confidence),
    )


def growth_exponent(curve: ArrayLike) -> float:
    """Slope of the least squares line of ln R_t on ln t over t in [T/10, T].

    Args:
        curve: Cumulative regret R_1..R_T, shape (T,).

    Returns:
        The exponent, NaN where R_t is not positive on the whole range or T < 2.
    """
    values = np.asarray(curve, dtype=np.float64)
    rounds = _exponent_rounds(len(values))
    return float(_log_slope(values[rounds - 1][None], rounds)[0])


def paired_difference(a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95) -> PairedDifference:
    """Compare two agents run on the same seeds, e.g. by their final regrets.

    Args:
        a: One figure per seed, shape (S,); a pair with a NaN, where one is not known, is left out.
        b: The same seeds in the same order, shape (S,).
        confidence: Nominal coverage of the interval, in (0, 1).

    Raises:
        ValueError: If the shapes differ or are not (S,), no pair is known, or `confidence` is no
            probability.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(
            f"a has shape {first.shape} and b {second.shape}; give both one figure per shared seed"
        )
    is_known = ~(np.isnan(first) | np.isnan(second))
    gaps, ranked = _gaps(first[is_known], second[is_known])
    if not len(gaps):
        raise ValueError("of no pair both figures are known; give at least one")
    return PairedDifference(
        difference=IntervalEstimate(
            float(gaps.mean()), *student_interval(gaps, confidence=confidence)
        ),
        num_pairs=len(gaps),
        num_lower=int((gaps < 0).sum()),
        num_higher=int((gaps > 0).sum()),
        sign_p=sign_test(gaps),
        wilcoxon_p=wilcoxon_test(ranked),
        smallest_p=min(1.0, 2.0 ** (1 - len(gaps))),
    )


def coverage(truth: ArrayLike, low: ArrayLike, high: ArrayLike) -> float:
    """Share of the true values inside their intervals, ends included.

    Args:
        truth: True values, any shape.
        low: Lower bounds, broadcastable to `truth`.
        high: Upper bounds, broadcastable to `truth`.

    Returns:
        A share in [0, 1] over the entries where all three are numbers; NaN where none is.
    """
    values, below, above = np.broadcast_arrays(
        *(np.asarray(part, dtype=np.float64) for part in (truth, low, high))
    )
    known = ~(np.isnan(values) | np.isnan(below) | np.isnan(above))
    if not known.any():
        return math.nan
    return float(((values >= below) & (values <= above))[known].mean())


def _gaps(first: FloatArray, second: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Differences (S,), and the same for ranking, where rounding tells no two apart.

    Sums of the same rewards in another order differ in their last digits: those are no difference,
    and no rank.
    """
    gaps = first - second
    scale = np.maximum(np.abs(first), np.abs(second))
    gaps[np.abs(gaps) <= 10.0**-_TRUSTED_DIGITS * scale] = 0.0
    return gaps, np.array([float(f"{gap:.{_TRUSTED_DIGITS}g}") for gap in gaps])


@dataclass(frozen=True, slots=True)
class _Jackknifed:
    """A figure, and what it would be without each run in turn.

    Attributes:
        value: The figure.
        without: For every group of runs that were drawn apart, its values without one of them.
    """

    value: float
    without: tuple[FloatArray, ...]

    @classmethod
    def of_mean(cls, values: FloatArray) -> _Jackknifed:
        return cls(float(values.mean()), (without_each(values),))

    @property
    def num_runs(self) -> int:
        """Number of runs of the first group."""
        return len(self.without[0])

    def over(self, other: _Jackknifed, is_paired: bool) -> _Jackknifed:
        ours, theirs = np.float64(self.value), np.float64(other.value)
        with np.errstate(divide="ignore", invalid="ignore"):
            without = (
                (self.without[0] / other.without[0],)
                if is_paired
                else (self.without[0] / theirs, ours / other.without[0])
            )
            return _Jackknifed(float(ours / theirs), without)

    def times(self, factor: float) -> _Jackknifed:
        return _Jackknifed(self.value * factor, tuple(factor * part for part in self.without))

    def estimate(self, confidence: float) -> IntervalEstimate:
        if not math.isfinite(self.value):
            return IntervalEstimate(math.nan, math.nan, math.nan)
        half = jackknife_half(self.without, confidence)
        return IntervalEstimate(self.value, self.value - half, self.value + half)


def _uniform_play(random_regret: ArrayLike | None, horizon: int) -> _Jackknifed:
    """R_T of uniform play; NaN without one."""
    if random_regret is None:
        return _Jackknifed(math.nan, (np.full(1, np.nan),))
    rounds = as_matrix(random_regret, "random_regret")
    if rounds.shape[1] != horizon:
        raise ValueError(
            f"random_regret has {rounds.shape[1]} rounds and regret {horizon}; "
            "cut both to the shorter"
        )
    return _Jackknifed.of_mean(rounds.sum(axis=1))


def _exponent_rounds(horizon: int) -> NDArray[np.int64]:
    """Rounds t (1-based) in [T/10, T] that enter the fit, at most 1,000 of them."""
    first = max(1, math.ceil(horizon / 10))
    count = min(_EXPONENT_POINTS, horizon - first + 1)
    return np.linspace(first, horizon, count).round().astype(np.int64)


def _log_slope(values: FloatArray, rounds: NDArray[np.int64]) -> FloatArray:
    """Least squares slope of every row of (B, n) on ln t; NaN where a value is not positive."""
    if len(rounds) < 2:
        return np.full(len(values), np.nan)
    centred = np.log(rounds) - np.log(rounds).mean()
    positive = np.asarray((values > 0).all(axis=1))
    logs = np.log(np.where(positive[:, None], values, 1.0))
    return np.where(positive, logs @ centred / (centred @ centred), np.nan)


def _exponents(curves: FloatArray) -> _Jackknifed:
    """Exponent of the mean curve, and of the mean curve without each run."""
    rounds = _exponent_rounds(curves.shape[1])
    points = curves[:, rounds - 1]
    value = float(_log_slope(points.mean(axis=0)[None], rounds)[0])
    return _Jackknifed(value, (_log_slope(without_each(points), rounds),))
