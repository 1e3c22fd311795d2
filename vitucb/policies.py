"""Policies: how estimated means and confidence widths become an action and its propensity.

A policy is a function of (mean, width, mask, round, rng). The propensities here are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitucb.config import PolicyConfig
from vitucb.registry import lookup

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a policy decided.

    Attributes:
        action: Chosen arm.
        propensity: Probability of choosing it, in (0, 1].
        bonus: What was added to the mean of every arm, float64 (K,), reward units.
    """

    action: int
    propensity: float
    bonus: Array


Policy: TypeAlias = Callable[[Array, Array, NDArray[np.int8], int, np.random.Generator], Choice]


def argmax_probabilities(score: Array, mask: NDArray[np.int8]) -> Array:
    """Uniform over the largest scores among the unmasked arms, float64 (K,), sums to 1.

    Raises:
        ValueError: If every arm is masked, or an unmasked score is not finite.
    """
    allowed = mask.astype(bool)
    if not allowed.any():
        raise ValueError("action_mask has no allowed arm; the environment must offer at least one")
    if not np.isfinite(score[allowed]).all():
        raise ValueError(f"scores {score} are not finite; lower the learning rate")
    best = allowed & (score == score[allowed].max())
    probabilities: Array = best / best.sum()
    return probabilities


def _draw(probabilities: Array, bonus: Array, rng: np.random.Generator) -> Choice:
    action = int(rng.choice(len(probabilities), p=probabilities))
    return Choice(action, float(probabilities[action]), bonus)


def ucb(config: PolicyConfig) -> Policy:
    """Optimism: the largest mean + alpha * width. Abbasi-Yadkori et al. 2011 (OFUL)."""

    def policy(
        mean: Array, width: Array, mask: NDArray[np.int8], round: int, rng: np.random.Generator
    ) -> Choice:
        bonus = config.alpha * width
        return _draw(argmax_probabilities(mean + bonus, mask), bonus, rng)

    return policy


def greedy(config: PolicyConfig) -> Policy:
    """The largest mean."""

    def policy(
        mean: Array, width: Array, mask: NDArray[np.int8], round: int, rng: np.random.Generator
    ) -> Choice:
        return _draw(argmax_probabilities(mean, mask), np.zeros_like(mean), rng)

    return policy


def epsilon_greedy(config: PolicyConfig) -> Policy:
    """The largest mean, or with probability epsilon any allowed arm."""

    def policy(
        mean: Array, width: Array, mask: NDArray[np.int8], round: int, rng: np.random.Generator
    ) -> Choice:
        uniform = mask / mask.sum()
        best = argmax_probabilities(mean, mask)
        mixed = (1 - config.epsilon) * best + config.epsilon * uniform
        return _draw(mixed, np.zeros_like(mean), rng)

    return policy


POLICIES: dict[str, Callable[[PolicyConfig], Policy]] = {
    "ucb": ucb,
    "greedy": greedy,
    "epsilon-greedy": epsilon_greedy,
}


def make_policy(config: PolicyConfig) -> Policy:
    """The policy `config.name`, from the table or an import path of a factory.

    Raises:
        ValueError: If the name is unknown or a setting is out of range.
    """
    if not (np.isfinite(config.alpha) and config.alpha >= 0):
        raise ValueError(f"agent.policy.alpha {config.alpha} must be finite and >= 0")
    if not 0 <= config.epsilon <= 1:
        raise ValueError(f"agent.policy.epsilon {config.epsilon} must be in [0, 1]")
    policy: Policy = lookup("policy", config.name, POLICIES)(config)
    return policy
