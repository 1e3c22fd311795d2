"""Several policies on one log, each also as its difference from the log's own mean reward.

The difference is resampled as one: in every bootstrap resample of the rounds the log's mean is
taken from the same rounds, so what both share does not widen the interval.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitucb.envs.data.logged_rounds import LoggedRounds
from vitucb.evaluation.estimators import (
    Estimate,
    Logged,
    Terms,
    bootstrap_intervals,
    check_logged,
)
from vitucb.policies.choice import Array

_ROUNDING = 1e-12  # of the rewards: the log's own policy gains nothing, and not 1e-16


@dataclass(frozen=True, slots=True)
class PolicyEstimate(Estimate):
    """An estimate of a policy's value, and of what it gains over the log.

    Attributes:
        policy: The policy.
        gain: Its value minus the mean reward of the log, reward units per round.
        gain_low: Lower end of the bootstrap interval of the gain.
        gain_high: Upper end.
    """

    policy: str
    gain: float
    gain_low: float
    gain_high: float

    def numbers(self) -> dict[str, object]:
        """Value, gain and their intervals as cells of a table."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "minus the log": self.gain,
            "from": self.gain_low,
            "to": self.gain_high,
        }


@dataclass(frozen=True, slots=True)
class Probe:
    """A log with all that it takes to see it from any policy.

    Attributes:
        rounds: The log.
        propensities: Of the actions taken, logged or estimated, float64 (n,).
        q: Estimated mean rewards, float64 (n, K).
    """

    rounds: LoggedRounds
    propensities: NDArray[np.float64]
    q: Array

    def logged(self, target: Array) -> Logged:
        """The log as the estimators see it for a policy's probabilities (n, K)."""
        rounds = self.rounds
        return check_logged(rounds.rewards, rounds.actions, self.propensities, target, self.q)


def compare(
    entries: Sequence[tuple[str, str, Terms]],
    rewards: Array,
    rng: np.random.Generator,
    *,
    num_resamples: int,
    confidence: float,
) -> list[PolicyEstimate]:
    """An estimate for every (policy, estimator, terms), all from the same resamples.

    Args:
        entries: What to estimate.
        rewards: Of the log, (n,).
        rng: Draws the resamples.
        num_resamples: How many.
        confidence: Nominal coverage of the intervals, in (0, 1).
    """
    values = [terms for _, _, terms in entries]
    gains = [dataclasses.replace(terms, base=terms.base - rewards) for terms in values]
    ends = bootstrap_intervals(
        [*values, *gains], rng, num_resamples=num_resamples, confidence=confidence
    )
    smallest = _ROUNDING * float(np.abs(rewards).max())

    def rounded(gain: float) -> float:
        return 0.0 if abs(gain) <= smallest else gain

    return [
        PolicyEstimate(
            **dataclasses.asdict(Estimate.of(name, terms, *ends[index])),
            policy=policy,
            gain=rounded(gains[index].value),
            gain_low=rounded(ends[len(entries) + index][0]),
            gain_high=rounded(ends[len(entries) + index][1]),
        )
        for index, (policy, name, terms) in enumerate(entries)
    ]
