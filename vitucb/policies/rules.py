"""Policies whose probabilities have a closed form: UCB, greedy, epsilon-greedy, Boltzmann, IGW."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from vitucb.config import PolicyConfig
from vitucb.policies.choice import (
    Array,
    Choice,
    Mask,
    Policy,
    argmax_probabilities,
    check_scores,
    draw,
)

Rule: TypeAlias = Callable[[Array, Mask, int], Array]
"""Probabilities (K,) from means (K,), mask (K,) and the 0-based round."""

# FastCB divides by the predicted loss of the best arm; a prediction of none at all would end all
# exploration for good.
_SMALLEST_LOSS = 1e-3


def _without_bonus(rule: Rule) -> Policy:
    """A policy that draws from `rule` and has no use for widths."""

    def policy(
        mean: Array, width: Array, mask: Mask, round: int, rng: np.random.Generator
    ) -> Choice:
        return draw(rule(mean, mask, round), np.zeros_like(mean), rng)

    return policy


def decayed(value: float, decay: float, round: int) -> float:
    """The schedule value * t^-decay with t = round + 1: constant at 0, 1/t at 1."""
    return float(value * (round + 1) ** -decay)


def ucb(config: PolicyConfig) -> Policy:
    """Optimism: the largest mean + alpha * width. Abbasi-Yadkori et al. 2011 (OFUL)."""

    def policy(
        mean: Array, width: Array, mask: Mask, round: int, rng: np.random.Generator
    ) -> Choice:
        bonus = config.alpha * width
        return draw(argmax_probabilities(mean + bonus, mask), bonus, rng)

    return policy


def greedy(config: PolicyConfig) -> Policy:
    """The largest mean."""
    return _without_bonus(lambda mean, mask, round: argmax_probabilities(mean, mask))


def epsilon_greedy(config: PolicyConfig) -> Policy:
    """The largest mean, or with probability min(1, epsilon t^-decay) any allowed arm."""

    def rule(mean: Array, mask: Mask, round: int) -> Array:
        best = argmax_probabilities(mean, mask)
        epsilon = min(1.0, decayed(config.epsilon, config.decay, round))
        mixed: Array = (1 - epsilon) * best + epsilon * (mask / mask.sum())
        return mixed

    return _without_bonus(rule)


def boltzmann(config: PolicyConfig) -> Policy:
    """Probabilities in proportion to exp(mean / (temperature t^-decay)).

    Cesa-Bianchi et al., "Boltzmann exploration done right", 2017, show why the schedule matters:
    constant temperatures never stop exploring, fast ones may stop too early.
    """

    def rule(mean: Array, mask: Mask, round: int) -> Array:
        allowed = check_scores(mean, mask)
        temperature = decayed(config.temperature, config.decay, round)
        # Underflow of a schedule that has run for ages is the limit, the largest mean.
        with np.errstate(under="ignore", over="ignore"):
            gaps = (mean[allowed].max() - mean) / max(temperature, 1e-300)
            weights = np.where(allowed, np.exp(-np.where(allowed, gaps, np.inf)), 0.0)
        probabilities: Array = weights / weights.sum()
        return probabilities

    return _without_bonus(rule)


def igw(config: PolicyConfig) -> Policy:
    """Inverse gap weighting, 1 / (K + gamma_t gap), the rest to the best (SquareCB and kin).

    Needs no widths, and no probability is ever 0, so its logs serve off-policy evaluation.
    `variant` is one of

    - `square-cb`: gamma_t = gamma t^growth. Foster and Rakhlin, "Beyond UCB", 2020.
    - `falcon`: gamma_t is held constant over epochs of doubling length. Simchi-Levi and Xu,
      "Bypassing the monster", 2020; the model goes on learning within an epoch, theirs does not.
    - `fast-cb`: gaps are divided by the predicted loss 1 - mean of the best arm, for rewards in
      [0, 1]: bounds of first order. Foster and Krishnamurthy, "Efficient first-order contextual
      bandits", 2021.

    gamma is in 1 / reward units: rewards of another scale than [0, 1] want another gamma.
    """

    def rule(mean: Array, mask: Mask, round: int) -> Array:
        gamma = _igw_gamma(config, round)
        allowed = check_scores(mean, mask)
        best = argmax_probabilities(mean, mask)
        gaps = np.where(allowed, mean[allowed].max() - mean, 0.0)
        if config.variant == "fast-cb":
            gaps = gaps / np.clip(1 - mean[allowed].max(), _SMALLEST_LOSS, 1.0)
        weights = np.where(allowed, 1 / (allowed.sum() + gamma * gaps), 0.0)
        others = np.where(best > 0, 0.0, weights)
        # Tied best arms share the rest evenly, so that no order of the arms is preferred.
        probabilities: Array = others + best * (1 - others.sum())
        return probabilities

    return _without_bonus(rule)


def _igw_gamma(config: PolicyConfig, round: int) -> float:
    time = round + 1
    if config.variant == "falcon":
        time = 2 ** int(math.log2(time))
    return decayed(config.gamma, -config.growth, time - 1)
