"""Thompson sampling with Gaussian posteriors, and the probability with which each arm wins.

Thompson, "On the likelihood that one unknown probability exceeds another", 1933; Agrawal and Goyal,
"Thompson sampling for contextual bandits with linear payoffs", 2013; Zhang et al., "Neural Thompson
sampling", 2021 (a draw per arm); Vaswani et al., "Old dog learns new tricks", 2020 (optimism).

For independent draws the probability that arm a wins is one integral,

    p_a = int N(x; m_a, s_a) prod_{b != a} Phi((x - m_b) / s_b) dx,

computed by Gauss-Legendre quadrature on panels no wider than any arm that varies there. For joint
draws it is estimated by Monte Carlo.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np

from vitucb.config import PolicyConfig
from vitucb.policies.choice import (
    Array,
    Choice,
    Mask,
    argmax_probabilities,
    check_scores,
)

# Past 8.5 standard deviations the normal cdf is 0 or 1 to 1e-17.
_REACH = 8.5
_PANEL_WIDTHS = 2.0
_NODES = 20
_CDF_STEP = 2.0**-10


@cache
def _cdf_table() -> Array:
    # Not arange with a step: its rounding grows along the way.
    points = -_REACH + _CDF_STEP * np.arange(2 * _REACH / _CDF_STEP + 2)
    return np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in points])


@cache
def _gauss_legendre() -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return nodes, weights


def _density(x: Array) -> Array:
    values: Array = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return values


def normal_cdf(x: Array) -> Array:
    """Standard normal cdf of any array, absolute error below 1e-14.

    Cubic Hermite interpolation between exact values 2^-10 apart: numpy has no erf.
    """
    table = _cdf_table()
    place = (np.clip(x, -_REACH, _REACH) + _REACH) / _CDF_STEP
    index = place.astype(np.int64)
    u = place - index
    left: Array = np.asarray(-_REACH + index * _CDF_STEP, np.float64)
    slope_0, slope_1 = _density(left) * _CDF_STEP, _density(left + _CDF_STEP) * _CDF_STEP
    low, step = table[index], table[index + 1] - table[index]
    bend = u * (1 - u) * ((1 - u) * (slope_0 - step) - u * (slope_1 - step))
    cdf: Array = low + u * step + bend
    return cdf


def _panels(mean: Array, width: Array, start: float) -> Array:
    """Edges of panels from `start` to where the last arm ends, (n + 1,)."""
    begins, ends = mean - _REACH * width, mean + _REACH * width
    edges = [start]
    while (ahead := ends > edges[-1]).any():
        # An arm that varies here bounds the panel by its width, one further on by its beginning.
        steps = np.maximum(_PANEL_WIDTHS * width, begins - edges[-1])[ahead]
        edge = edges[-1] + float(steps.min())
        if edge <= edges[-1]:
            break  # Steps below rounding error: nothing is left to integrate.
        edges.append(edge)
    return np.array(edges)


def gaussian_win_probabilities(mean: Array, width: Array, *, is_optimistic: bool = False) -> Array:
    """Probability that each of independent normal draws is the largest, error below 1e-10.

    Args:
        mean: Means, float64 (K,).
        width: Standard deviations, float64 (K,), >= 0; 0 makes a draw certain.
        is_optimistic: Whether a draw below its mean counts as the mean.

    Returns:
        float64 (K,), sums to 1; ties among certain draws are shared evenly.
    """
    rounding = 4 * np.finfo(np.float64).eps * abs(float(mean.max()))
    mean = mean - mean.max()
    # Arms that cannot win do not say what is narrow.
    contends = mean + _REACH * width >= (mean - _REACH * width).max()
    certain = width <= max(1e-12 * float(width[contends].max()), rounding)
    floor = -math.inf
    if is_optimistic:
        floor = float(mean.max())
    elif certain.any():
        floor = float(mean[certain].max())
    # Below the floor nobody wins; at the floor the arms that rest on it share what is left.
    resting = (mean == floor) & (certain | is_optimistic)
    probabilities = np.zeros_like(mean)
    varying = np.flatnonzero(~certain)
    if len(varying):
        probabilities[varying] = _integrals(mean[varying], width[varying], floor)
    if resting.any():
        below = normal_cdf((floor - mean[varying]) / width[varying])
        probabilities += resting / resting.sum() * below.prod()
    normalised: Array = probabilities / probabilities.sum()
    return normalised


def _integrals(mean: Array, width: Array, floor: float) -> Array:
    """For each arm, the probability that it wins with a draw above `floor`."""
    edges = _panels(mean, width, max(floor, float((mean - _REACH * width).max())))
    nodes, weights = _gauss_legendre()
    half = np.diff(edges)[:, None] / 2
    x = (edges[:-1, None] + half * (1 + nodes)).ravel()
    weight = (half * weights).ravel()
    z = (x[:, None] - mean) / width
    cdf = normal_cdf(z)
    # Products of all cdfs but one's own, without dividing by a cdf that may be 0.
    ones = np.ones((len(x), 1))
    before = np.cumprod(np.hstack([ones, cdf[:, :-1]]), axis=1)
    after = np.cumprod(np.hstack([ones, cdf[:, :0:-1]]), axis=1)[:, ::-1]
    integrals: Array = weight @ (_density(z) / width * before * after)
    return integrals


def joint_draws(mean: Array, covariance: Array, count: int, rng: np.random.Generator) -> Array:
    """Draws from N(mean, covariance), float64 (count, K); the covariance may be singular."""
    # eigh and not Cholesky: duplicated arms make the covariance singular, and that is no error.
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    noise = rng.standard_normal((count, len(mean)))
    draws: Array = mean + noise @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
    return draws


class Thompson:
    """Thompson sampling, N(mean, alpha^2 width^2): see `thompson`.

    Attributes:
        wants_covariance: Whether arms are drawn jointly.
    """

    def __init__(self, config: PolicyConfig) -> None:
        """Read alpha, joint, optimistic and draws."""
        self._config = config
        self.wants_covariance = config.joint

    def __call__(
        self,
        mean: Array,
        width: Array,
        mask: Mask,
        round: int,
        rng: np.random.Generator,
        *,
        covariance: Callable[[], Array] | None = None,
    ) -> Choice:
        """Draw a value for every arm and take the largest.

        Args:
            mean: Estimated means, float64 (K,).
            width: Standard deviations before alpha, float64 (K,).
            mask: int8 (K,).
            round: Not used.
            rng: Source of chance.
            covariance: Joint covariance before alpha^2, float64 (K, K), for joint draws; without
                it draws are independent.
        """
        allowed = check_scores(mean + width, mask)
        deviation = self._config.alpha * width
        if self._config.joint and covariance is not None:
            return self._choose_jointly(mean, covariance(), mask, rng)
        draws = self._floored(mean, mean + deviation * rng.standard_normal(len(mean)))
        action = int(rng.choice(len(mean), p=argmax_probabilities(draws, mask)))
        probabilities = np.zeros_like(mean)
        probabilities[allowed] = gaussian_win_probabilities(
            mean[allowed], deviation[allowed], is_optimistic=self._config.optimistic
        )
        # What was drawn was possible, however far out.
        propensity = max(float(probabilities[action]), np.finfo(np.float64).tiny)
        return Choice(action, propensity, draws - mean, probabilities)

    def _floored(self, mean: Array, draws: Array) -> Array:
        return np.maximum(mean, draws) if self._config.optimistic else draws

    def _choose_jointly(
        self, mean: Array, covariance: Array, mask: Mask, rng: np.random.Generator
    ) -> Choice:
        count = self._config.draws + 1
        scaled = self._config.alpha**2 * covariance
        draws = self._floored(mean, joint_draws(mean, scaled, count, rng))
        ranked = np.where(mask.astype(bool), draws, -np.inf)
        best = ranked == ranked.max(axis=1, keepdims=True)
        # Ties (duplicated arms) count in shares, as they are drawn.
        shares = best / best.sum(axis=1, keepdims=True)
        action = int(rng.choice(len(mean), p=shares[0]))
        # The draw that decided is one of them, so the propensity is never 0.
        probabilities = shares.mean(axis=0)
        propensity = float(probabilities[action])
        error = math.sqrt(propensity * (1 - propensity) / count)
        return Choice(action, propensity, draws[0] - mean, probabilities, error)


def thompson(config: PolicyConfig) -> Thompson:
    """A posterior draw for every arm, N(mean, alpha^2 width^2); the largest wins.

    `joint` draws all arms as one parameter draw would, with its covariance; `optimistic` never
    draws below the mean. Propensities are exact to 1e-10 for independent draws; for joint ones
    the share of `draws` + 1 draws, with its standard error in `Choice.standard_error`.
    """
    return Thompson(config)
