"""Off-policy evaluation of slates: the reward a policy's slates would have had, from another's.

With the reward r_ik of position k in slate i, the estimate is mean_i sum_k w_ik r_ik. The weights
say how much likelier the evaluated policy is to bring about what r_ik depends on:

| estimator            | w_ik                             | right where r_ik depends on |
|----------------------|----------------------------------|-----------------------------|
| `standard-ips`       | prod_j pi(a_j : <j) / p(a_j : <j) | the whole slate            |
| `reward-interaction` | the same product up to j = k     | the arms up to k [1]        |
| `item-position`      | pi_k(a_k) / p_k(a_k)             | the arm in k alone [2]      |

with pi(a_j : <j) the probability of the arm in position j given those before it.

pi_k(a) is the probability that arm a stands in position k, whatever stands before it. The fewer
factors, the less variance: slates of a semi-bandit, and clicks by the position-based model, allow
the last. Each also self-normalised, sum_k (sum_i w_ik r_ik / sum_i w_ik), as `sn-...`, with a bias
of order 1/n and less variance.

[1] McInerney et al., "Counterfactual evaluation of slate recommendations with sequential reward
interactions", 2020 - https://arxiv.org/abs/2007.12986
[2] Li et al., "Offline evaluation of ranking policies with click models", 2018 -
https://arxiv.org/abs/1804.10488
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vitucb.evaluation.estimators import effective_sample_size
from vitucb.policies.choice import Array
from vitucb.statistics.resampling import BLOCK, draw_resamples, percentiles, resample_weights

STANDARD, SEQUENTIAL, ITEM_POSITION = "standard-ips", "reward-interaction", "item-position"
NORMALISED = "sn-"


@dataclass(frozen=True, slots=True)
class SlateEstimate:
    """One estimate of the reward of a policy's slates.

    Attributes:
        name: `standard-ips`, `reward-interaction`, `item-position`, or one of them self-normalised.
        value: Estimated mean reward of a slate, the sum over its positions; NaN if the log says
            nothing of it.
        low: Lower end of the bootstrap interval.
        high: Upper end.
        effective_sample_size: Of the weights of the position where it is least, slates.
        max_weight: Largest weight.
    """

    name: str
    value: float
    low: float
    high: float
    effective_sample_size: float
    max_weight: float


def slate_weights(
    target: Array,
    logged: Array,
    target_positions: Array | None = None,
    logged_positions: Array | None = None,
) -> dict[str, Array]:
    """Weights of every estimator, float64 (n, m) each.

    Args:
        target: Probability under the evaluated policy of every arm shown, given those before it,
            (n, m).
        logged: The same under the policy of the log, in (0, 1].
        target_positions: Probability under the evaluated policy that the arm stands in its
            position, (n, m); None leaves `item-position` out.
        logged_positions: The same under the policy of the log, in (0, 1].

    Raises:
        ValueError: If shapes differ, or a probability of the log is not in (0, 1].
    """
    up_to = np.cumprod(_ratio("propensities", target, logged), axis=1)
    weights = {STANDARD: np.repeat(up_to[:, -1:], up_to.shape[1], axis=1), SEQUENTIAL: up_to}
    if target_positions is not None and logged_positions is not None:
        ratio = _ratio("position propensities", target_positions, logged_positions)
        weights[ITEM_POSITION] = ratio
    return weights


def _ratio(name: str, target: Array, logged: Array) -> Array:
    if target.shape != logged.shape or target.ndim != 2 or not target.size:
        raise ValueError(f"{name} have shapes {target.shape} and {logged.shape}; give (n, m) twice")
    if not ((logged > 0) & (logged <= 1 + 1e-9)).all():
        raise ValueError(f"{name} of the log must be in (0, 1]; the least is {logged.min():g}")
    ratio: Array = target / logged
    return ratio


def slate_estimates(
    rewards: Array,
    weights: Mapping[str, Array],
    rng: np.random.Generator,
    *,
    num_resamples: int = 2_000,
    confidence: float = 0.95,
) -> list[SlateEstimate]:
    """Every estimate and its self-normalised form, with bootstrap intervals over slates.

    Args:
        rewards: What the positions paid, (n, m).
        weights: See `slate_weights`.
        rng: Draws the resamples, the same for all estimators.
        num_resamples: Their number.
        confidence: Nominal coverage of the intervals, in (0, 1).
    """
    columns = np.hstack([np.hstack([w * rewards, w]) for w in weights.values()])
    means = np.vstack([columns.mean(axis=0), _resampled(columns, num_resamples, rng)])
    parts = np.split(means, 2 * len(weights), axis=1)
    found = []
    for index, (name, weight) in enumerate(weights.items()):
        earned, mass = parts[2 * index], parts[2 * index + 1]
        with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 where no slate has any weight
            normalised = (earned / mass).sum(axis=1)
        for label, values in ((name, earned.sum(axis=1)), (NORMALISED + name, normalised)):
            size = min(effective_sample_size(column) for column in weight.T)
            ends = _ends(values[1:], confidence)
            largest = float(weight.max())
            found.append(SlateEstimate(label, float(values[0]), *ends, size, largest))
    return found


def _resampled(columns: Array, count: int, rng: np.random.Generator) -> Array:
    """Mean of every column in every resample of the rows, (count, columns)."""
    step = max(1, BLOCK // len(columns))
    counts = [min(step, count - start) for start in range(0, max(count, 1), step)]
    draws = (draw_resamples(len(columns), each, rng) for each in counts)
    return np.concatenate([resample_weights(draw) @ columns for draw in draws])


def _ends(values: Array, confidence: float) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not len(known):
        return math.nan, math.nan
    ends = percentiles(known, confidence)
    return float(ends.low), float(ends.high)
