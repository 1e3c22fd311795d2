"""Which estimate of a policy's value to read."""

from __future__ import annotations

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
    """

    estimator: str
    why: str


def advise(log: Logged, *, are_logged: bool) -> Advice:
    """The estimator to read for a policy on a log; the same rule whatever the estimates are.

    With logged propensities `snips` and `sndr` are both right as the log grows, and neither is
    ruled by its largest weights as `ips` and `dr` are. The one of smaller standard error is read:
    that depends on how much the reward model explains. Their intervals cover in
    docs/off_policy_evaluation.md.

    Args:
        log: The log as seen from the policy.
        are_logged: Whether its propensities were logged, rather than estimated from the choices.
    """
    w = log.weights
    if not w.any():
        why = "the log never did what the policy does, so there is only the reward model to ask, "
        return Advice("dm", f"{why}and nothing to check it")
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
