"""Which estimate of a policy's value to read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vitucb.evaluation.estimators import Logged
from vitucb.policies.choice import Array


@dataclass(frozen=True, slots=True)
class Advice:
    """An estimator, and why it.

    Attributes:
        estimator: A name of `vitucb.evaluation.estimators.ESTIMATORS`.
        why: The reason, a sentence.
        is_covered: Whether the log tells of all that the policy does. Where it does not, no
            estimate is more than a guess.
    """

    estimator: str
    why: str
    is_covered: bool = True


# Standard errors by which a mean that is known is missed only where something is wrong.
SUSPICIOUS_Z = 4.0
_LEAST_COVERED = 0.95


def is_uncovered(weights: Array) -> bool:
    """Whether weights (n,), whose mean is 1 where a log covers a policy, say that it does not."""
    error = float(weights.std()) / math.sqrt(len(weights))
    return float(weights.mean()) < min(1 - SUSPICIOUS_Z * error, _LEAST_COVERED)


def advise(log: Logged, *, are_logged: bool) -> Advice:
    """The estimator to read for a policy on a log; the same rule whatever the estimates are.

    With logged propensities `snips` and `sndr` are both right as the log grows, and neither is
    ruled by its largest weights as `ips` and `dr` are. The one of smaller standard error is read:
    that depends on how much the reward model explains. Their intervals cover in
    docs/off_policy_evaluation.md. Where the mean weight shows that the policy does what the log
    never did, as with a log that chose with certainty, nothing is right, and the model is read.

    Args:
        log: The log as seen from the policy.
        are_logged: Whether its propensities were logged, rather than estimated from the choices.
    """
    w = log.weights
    if not w.any():
        why = "the log never did what the policy does, so there is only the reward model to ask, "
        return Advice("dm", f"{why}and nothing to check it", is_covered=False)
    if is_uncovered(w):
        return Advice(
            "dm",
            f"the log covers about {100 * w.mean():.0f} % of what the policy does (the mean weight "
            "of a log that covers all is 1): no weighted estimate is right, and what the reward "
            "model says of the rest cannot be checked",
            is_covered=False,
        )
    if not are_logged:
        why = "it is right if either the reward model or the estimated propensities are, "
        return Advice("sndr", f"{why}and less than dr at the mercy of a few large weights")
    plain = standard_error(w, log.rewards, np.zeros_like(w))
    modelled = standard_error(w, log.rewards - log.q_chosen, log.q_target)
    why = (
        "with the logged propensities snips and sndr are both right, and of these its standard "
        f"error is the smaller one ({min(plain, modelled):.2g} against {max(plain, modelled):.2g})"
    )
    if modelled < plain:
        return Advice("sndr", f"{why}: the reward model explains some of the rewards")
    return Advice("snips", f"{why}: the reward model explains too little of the rewards to help")


def standard_error(weights: Array, correction: Array, base: Array) -> float:
    """Of mean(base) + sum(w correction) / sum(w), by the delta method; arrays (n,), w not all 0."""
    ratio = (weights * correction).sum() / weights.sum()
    influence = base - base.mean() + weights * (correction - ratio) / weights.mean()
    return float(influence.std() / np.sqrt(len(influence)))
