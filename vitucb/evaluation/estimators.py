"""Off-policy evaluation: the value of a policy from rewards that another policy collected.

With w_i = pi(a_i|x_i) / p(a_i|x_i), estimated mean rewards q(x, a) and q_pi(x) = sum_a pi(a|x)
q(x, a), every estimator here has the form

    mean_i base_i  +  sum_i correction_i / sum_i weight_i

| estimator     | base | correction            | weight | source                        |
|---------------|------|-----------------------|--------|-------------------------------|
| `dm`          | q_pi | 0                     | 1      | the plug-in estimate          |
| `ips`         | 0    | w r                   | 1      | Horvitz and Thompson 1952     |
| `clipped-ips` | 0    | min(w, c) r           | 1      | Ionides 2008                  |
| `snips`       | 0    | w r                   | w      | Swaminathan and Joachims 2015 |
| `dr`          | q_pi | w (r - q)             | 1      | Dudik et al. 2011 [1]         |
| `sndr`        | q_pi | w (r - q)             | w      | Thomas and Brunskill 2016 [2] |
| `switch-dr`   | q_pi | w 1[w <= c] (r - q)   | 1      | Wang et al. 2017 [3]          |

The limit c is sqrt(n) by default. [1] https://arxiv.org/abs/1103.4601
[2] https://arxiv.org/abs/1604.00923 [3] https://arxiv.org/abs/1612.01205

Intervals are percentile bootstrap over rounds (Efron 1979). They are right for rounds drawn
independently; a log written by an agent that learnt meanwhile has dependent rounds, for which
`ips` and `dr` stay unbiased given the true propensities, but the intervals are approximate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitucb.policies.choice import Array
from vitucb.statistics.resampling import BLOCK, draw_resamples, percentiles, resample_weights
from vitucb.types import PROBABILITY_TOLERANCE, sound_propensities


@dataclass(frozen=True, slots=True)
class Terms:
    """An estimator as three arrays: mean(base) + sum(correction) / sum(weight).

    Attributes:
        base: float64 (n,), reward units.
        correction: float64 (n,), reward units.
        weight: float64 (n,), without unit.
        importance: Importance weights that the estimator uses, float64 (n,); ones if it uses none.
    """

    base: Array
    correction: Array
    weight: Array
    importance: Array

    @property
    def value(self) -> float:
        """The estimate; NaN if the weights sum to 0."""
        total = float(self.weight.sum())
        return float(self.base.mean()) + (
            float(self.correction.sum()) / total if total > 0 else math.nan
        )


@dataclass(frozen=True, slots=True)
class Logged:
    """What every estimator needs, checked: n rounds of a log, seen from the policy evaluated.

    Attributes:
        rewards: float64 (n,), finite.
        weights: w = pi(a|x) / p(a|x) of the logged actions, float64 (n,), >= 0.
        q_chosen: Estimated mean reward of the logged actions, float64 (n,).
        q_target: Estimated mean reward of the policy, sum_a pi(a|x) q(x, a), float64 (n,).
    """

    rewards: Array
    weights: Array
    q_chosen: Array
    q_target: Array


@dataclass(frozen=True, slots=True)
class Estimate:
    """One estimate of a policy's value.

    Attributes:
        name: A name of `ESTIMATORS`.
        value: Estimated mean reward per round, reward units; NaN if the log says nothing about it.
        low: Lower end of the bootstrap interval.
        high: Upper end.
        effective_sample_size: (sum w)^2 / sum w^2 of the weights it uses, rounds (Kish 1965); n for
            the direct method, which uses none.
        max_weight: Largest weight it uses.
    """

    name: str
    value: float
    low: float
    high: float
    effective_sample_size: float
    max_weight: float

    @classmethod
    def of(cls, name: str, terms: Terms, low: float, high: float) -> Estimate:
        """What `terms` say, with the ends of their interval."""
        used = terms.importance
        return cls(name, terms.value, low, high, effective_sample_size(used), float(used.max()))


def check_logged(
    rewards: ArrayLike,
    actions: ArrayLike,
    propensities: ArrayLike,
    target: ArrayLike,
    q: ArrayLike | None = None,
) -> Logged:
    """Check the arrays of a log and reduce them to what the estimators use.

    Args:
        rewards: Observed rewards, (n,).
        actions: Logged actions, integers 0..K-1, (n,).
        propensities: Probability with which each logged action was chosen, in (0, 1], (n,).
        target: Probabilities of the policy to evaluate, rows sum to 1, (n, K).
        q: Estimated mean rewards (n, K), reward units, from other rounds than the one they are for
            (see `vitucb.evaluation.cross_fitting`); zeros if None, which makes `dr` equal `ips`.

    Raises:
        ValueError: If a shape does not fit, or a value is out of range; names the first bad round.
    """
    r = _column("rewards", rewards)
    p = _column("propensities", propensities, len(r))
    pi = _matrix("target", target, len(r))
    a = _actions(actions, pi.shape)
    q_all = np.zeros_like(pi) if q is None else _matrix("q", q, len(r))
    if q_all.shape != pi.shape:
        raise ValueError(f"q has shape {q_all.shape}; give {pi.shape} like target")
    sound = sound_propensities(p)
    _require("propensities", p, ~np.isnan(sound), "a probability in (0, 1]")
    _require("target", pi.min(axis=1), pi.min(axis=1) >= 0, "probabilities >= 0")
    sums = pi.sum(axis=1)
    _require("sum of target", sums, abs(sums - 1) <= PROBABILITY_TOLERANCE, "rows that sum to 1")
    rounds = np.arange(len(r))
    return Logged(r, pi[rounds, a] / sound, q_all[rounds, a], (pi * q_all).sum(axis=1))


def direct_method(log: Logged) -> Terms:
    """DM: mean q_pi(x). No weights, hence little variance; as biased as q is."""
    ones = np.ones_like(log.rewards)
    return Terms(log.q_target, np.zeros_like(ones), ones, ones)


def inverse_propensity(log: Logged, clip: float = math.inf) -> Terms:
    """IPS: mean w r, unbiased; with `clip`, mean min(w, clip) r, which trades bias for variance."""
    w = np.minimum(log.weights, clip)
    return Terms(np.zeros_like(w), w * log.rewards, np.ones_like(w), w)


def self_normalised(log: Logged) -> Terms:
    """SNIPS: sum w r / sum w, always within the range of the rewards; bias of order 1/n."""
    w = log.weights
    return Terms(np.zeros_like(w), w * log.rewards, w, w)


def doubly_robust(log: Logged, threshold: float = math.inf) -> Terms:
    """DR: mean q_pi + w (r - q), right if either q or p is; `threshold` makes it switch-DR.

    Where w > threshold the correction is left out, and the direct method answers alone.
    """
    w = np.where(log.weights <= threshold, log.weights, 0.0)
    return Terms(log.q_target, w * (log.rewards - log.q_chosen), np.ones_like(w), w)


def self_normalised_doubly_robust(log: Logged) -> Terms:
    """Self-normalised DR: mean q_pi + sum w (r - q) / sum w."""
    w = log.weights
    return Terms(log.q_target, w * (log.rewards - log.q_chosen), w, w)


ESTIMATORS: Mapping[str, Callable[..., Terms]] = {
    "dm": direct_method,
    "ips": inverse_propensity,
    "clipped-ips": inverse_propensity,
    "snips": self_normalised,
    "dr": doubly_robust,
    "sndr": self_normalised_doubly_robust,
    "switch-dr": doubly_robust,
}
"""Name -> estimator; `clipped-ips` and `switch-dr` take the largest weight as second argument."""
_WITH_LIMIT = ("clipped-ips", "switch-dr")


def effective_sample_size(weights: ArrayLike) -> float:
    """(sum w)^2 / sum w^2: how many equally weighted rounds the weights (n,) are worth; 0 if none.

    Kish, "Survey Sampling", 1965.
    """
    w = np.asarray(weights, dtype=np.float64)
    largest = float(w.max(initial=0.0))
    if largest == 0:
        return 0.0
    w = w / largest  # or the squares of tiny weights would underflow
    return float(w.sum() ** 2 / np.square(w).sum())


def bootstrap_intervals(
    estimators: Sequence[Terms],
    rng: np.random.Generator,
    *,
    num_resamples: int = 2_000,
    confidence: float = 0.95,
) -> list[tuple[float, float]]:
    """Percentile bootstrap intervals of estimates from one log, over rounds (Efron 1979).

    Args:
        estimators: Terms of equal length n; all see the same resamples.
        rng: Draws the resamples.
        num_resamples: Number of resamples B.
        confidence: Nominal coverage, in (0, 1).

    Returns:
        Lower and upper end of each; NaN where the estimate is NaN.

    Raises:
        ValueError: If `confidence` is outside (0, 1) or `num_resamples` < 1.
    """
    columns = [c for e in estimators for c in (e.base, e.correction, e.weight)]
    sums = _resampled_means(np.stack(columns, axis=1), num_resamples, rng)
    base, correction, weight = np.moveaxis(sums.reshape(len(sums), -1, 3), 2, 0)
    with np.errstate(invalid="ignore"):  # 0 / 0 where a resample has no weight at all
        values = base + correction / weight
    return [_ends(column[np.isfinite(column)], confidence) for column in values.T]


def _resampled_means(columns: Array, num_resamples: int, rng: np.random.Generator) -> Array:
    """Mean of every column in every resample of the rows, (B, columns), in blocks of resamples."""
    step = max(1, BLOCK // len(columns))
    counts = [min(step, num_resamples - start) for start in range(0, max(num_resamples, 1), step)]
    draws = (draw_resamples(len(columns), count, rng) for count in counts)
    return np.concatenate([resample_weights(draw) @ columns for draw in draws])


def _ends(values: Array, confidence: float) -> tuple[float, float]:
    if not len(values):
        return math.nan, math.nan
    ends = percentiles(values, confidence)
    return float(ends.low), float(ends.high)


def estimate_values(
    log: Logged,
    rng: np.random.Generator,
    *,
    max_weight: float | None = None,
    num_resamples: int = 2_000,
    confidence: float = 0.95,
) -> list[Estimate]:
    """All estimates of one policy's value, each with its interval and effective sample size.

    Args:
        log: See `check_logged`.
        rng: Draws the resamples.
        max_weight: Where `clipped-ips` clips and `switch-dr` switches; sqrt(n) if None, a rate at
            which the bias vanishes and the variance stays bounded (Ionides 2008).
        num_resamples: Bootstrap resamples per estimator.
        confidence: Nominal coverage of the intervals, in (0, 1).

    Returns:
        One estimate per entry of `ESTIMATORS`, in that order.

    Raises:
        ValueError: If `max_weight` is not positive, or as `bootstrap_intervals`.
    """
    terms = estimator_terms(log, max_weight)
    ends = bootstrap_intervals(
        list(terms.values()), rng, num_resamples=num_resamples, confidence=confidence
    )
    return [
        Estimate.of(*each, *interval) for each, interval in zip(terms.items(), ends, strict=True)
    ]


def estimator_terms(log: Logged, max_weight: float | None = None) -> dict[str, Terms]:
    """The terms of every estimator by name, in the order of `ESTIMATORS`; see `estimate_values`."""
    limit = math.sqrt(len(log.rewards)) if max_weight is None else max_weight
    if not limit > 0:
        raise ValueError(f"max_weight {max_weight} must be above 0; leave it out for sqrt(n)")
    return {
        name: estimator(log, limit) if name in _WITH_LIMIT else estimator(log)
        for name, estimator in ESTIMATORS.items()
    }


def _column(name: str, values: ArrayLike, rounds: int | None = None) -> Array:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or len(column) == 0 or rounds not in (None, len(column)):
        raise ValueError(f"{name} has shape {column.shape}; give ({rounds or 'n'},), n at least 1")
    _require(name, column, np.isfinite(column), "finite numbers")
    return column


def _matrix(name: str, values: ArrayLike, rounds: int) -> Array:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) != rounds or matrix.shape[1] == 0:
        raise ValueError(f"{name} has shape {matrix.shape}; give ({rounds}, K)")
    worst = np.where(np.isfinite(matrix).all(axis=1), 0.0, np.nan)
    _require(name, worst, np.isfinite(worst), "finite numbers")
    return matrix


def _actions(values: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.int64]:
    actions = np.asarray(values)
    if actions.shape != shape[:1] or actions.dtype.kind not in "iu":
        raise ValueError(
            f"actions are {actions.dtype} {actions.shape}; give integers ({shape[0]},)"
        )
    allowed = (actions >= 0) & (actions < shape[1])
    _require("actions", actions.astype(np.float64), allowed, f"0 to {shape[1] - 1}")
    return actions.astype(np.int64)


def _require(name: str, values: Array, good: NDArray[np.bool_], allowed: str) -> None:
    bad = np.flatnonzero(~good)
    if len(bad):
        raise ValueError(
            f"{name}: {values[bad[0]]:g} in round {bad[0]} ({len(bad)} such rounds); give {allowed}"
        )
