"""Statistics of regret curves over seeds: bootstrap intervals, summaries, paired comparisons.

Seeds are the unit of replication: rounds of one run depend on each other, so whole trajectories
are resampled (`resampling`) and agents are compared seed by seed (`paired_tests`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitucb.statistics.paired_tests import (
    sign_test,
    student_interval,
    wilcoxon_test,
)
from vitucb.statistics.resampling import (
    BLOCK,
    FloatArray,
    as_matrix,
    bootstrap_ci,
    draw_resamples,
    interquartile_mean,
    percentiles,
    resample_weights,
    resampled,
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
        difference: Mean of a - b with its bootstrap interval.
        student_low: Lower end of Student's interval, which is wide enough at few seeds too.
        student_high: Upper end of it.
        num_pairs: Number of pairs.
        num_lower: Pairs in which a < b by more than rounding.
        num_higher: Pairs in which a > b by more than rounding.
        sign_p: Two-sided sign test.
        wilcoxon_p: Two-sided Wilcoxon signed-rank test.
        smallest_p: Smallest p the signed-rank test can return with this many pairs, 2^(1 - n).
    """

    difference: IntervalEstimate
    student_low: float
    student_high: float
    num_pairs: int
    num_lower: int
    num_higher: int
    sign_p: float
    wilcoxon_p: float
    smallest_p: float


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
        is_paired: Whether its rows are of the same seeds in the same order, then they are resampled
            together; rows of another number never are.
        confidence: Nominal coverage of the intervals, in (0, 1).
        num_resamples: Number of resamples B, shared by all figures.
        seed: Makes the resamples.

    Raises:
        ValueError: If a shape is wrong or the horizons differ, or as `bootstrap_ci`.
    """
    rounds = as_matrix(regret, "regret")
    num_seeds, horizon = rounds.shape
    curves = rounds.cumsum(axis=1)
    rng = np.random.default_rng(seed)
    weights = resample_weights(draw_resamples(num_seeds, num_resamples, rng))
    final = _Bootstrapped.of_mean(curves[:, -1], weights)
    area = _Bootstrapped.of_mean(curves.mean(axis=1), weights)
    uniform = _uniform_play(random_regret, rounds.shape, weights, rng, is_paired=is_paired)
    tail = rounds[:, -math.ceil(horizon / 10) :].mean(axis=1)
    quartiles = _Bootstrapped(
        interquartile_mean(curves[:, -1]),
        resampled(curves[:, -1], draw_resamples(num_seeds, num_resamples, rng), interquartile_mean),
    )
    return RegretSummary(
        num_seeds=num_seeds,
        horizon=horizon,
        final_regret=final.estimate(confidence, num_seeds),
        interquartile_regret=quartiles.estimate(confidence, num_seeds),
        normalised_regret=final.over(uniform).estimate(confidence, num_seeds),
        auc=area.over(uniform).times(2).estimate(confidence, num_seeds),
        tail_slope=_Bootstrapped.of_mean(tail, weights).estimate(confidence, num_seeds),
        growth_exponent=_exponents(curves, weights).estimate(confidence, num_seeds),
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


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Compare two agents run on the same seeds, e.g. by their final regrets.

    Args:
        a: One figure per seed, shape (S,); a pair with a NaN, where one is not known, is left out.
        b: The same seeds in the same order, shape (S,).
        confidence: Nominal coverage of the interval, in (0, 1).
        num_resamples: Number of resamples B.
        seed: Makes the resamples.

    Raises:
        ValueError: If the shapes differ or are not (S,), no pair is known, or as `bootstrap_ci`.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(
            f"a has shape {first.shape} and b {second.shape}; give both one figure per shared seed"
        )
    is_known = ~(np.isnan(first) | np.isnan(second))
    gaps, ranked = _gaps(first[is_known], second[is_known])
    low, high = bootstrap_ci(gaps, confidence=confidence, num_resamples=num_resamples, seed=seed)
    student_low, student_high = student_interval(gaps, confidence=confidence)
    return PairedDifference(
        difference=IntervalEstimate(float(gaps.mean()), float(low), float(high)),
        student_low=student_low,
        student_high=student_high,
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
class _Bootstrapped:
    """A figure and its B resampled values, so that ratios are taken resample by resample."""

    value: FloatArray
    samples: FloatArray

    @classmethod
    def of_mean(cls, values: FloatArray, weights: FloatArray) -> _Bootstrapped:
        return cls(values.mean(), weights @ values)

    def over(self, other: _Bootstrapped) -> _Bootstrapped:
        with np.errstate(divide="ignore", invalid="ignore"):
            return _Bootstrapped(self.value / other.value, self.samples / other.samples)

    def times(self, factor: float) -> _Bootstrapped:
        return _Bootstrapped(self.value * factor, self.samples * factor)

    def estimate(self, confidence: float, num_seeds: int) -> IntervalEstimate:
        value = float(self.value)
        if not math.isfinite(value):
            return IntervalEstimate(math.nan, math.nan, math.nan)
        known = self.samples[np.isfinite(self.samples)]
        if num_seeds == 1 or len(known) == 0:
            return IntervalEstimate(value, math.nan, math.nan)
        low, high = percentiles(known, confidence)
        return IntervalEstimate(value, float(low), float(high))


def _uniform_play(
    random_regret: ArrayLike | None,
    shape: tuple[int, ...],
    weights: FloatArray,
    rng: np.random.Generator,
    *,
    is_paired: bool,
) -> _Bootstrapped:
    """R_T of uniform play; NaN without one."""
    if random_regret is None:
        return _Bootstrapped(np.asarray(np.nan), np.full(len(weights), np.nan))
    rounds = as_matrix(random_regret, "random_regret")
    if rounds.shape[1] != shape[1]:
        raise ValueError(
            f"random_regret has {rounds.shape[1]} rounds and regret {shape[1]}; "
            "cut both to the shorter"
        )
    if len(rounds) != shape[0] or not is_paired:
        weights = resample_weights(draw_resamples(len(rounds), len(weights), rng))
    return _Bootstrapped.of_mean(rounds.sum(axis=1), weights)


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


def _exponents(curves: FloatArray, weights: FloatArray) -> _Bootstrapped:
    """Exponent of the mean curve, and of the mean curve of every resample."""
    rounds = _exponent_rounds(curves.shape[1])
    points = curves[:, rounds - 1]
    step = max(1, BLOCK // len(rounds))
    blocks = (weights[start : start + step] for start in range(0, len(weights), step))
    samples = np.concatenate([_log_slope(block @ points, rounds) for block in blocks])
    return _Bootstrapped(_log_slope(points.mean(axis=0)[None], rounds)[0], samples)
