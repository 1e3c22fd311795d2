"""What any policy should beat: uniform play, and the one action that is best throughout."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vitucb.envs.data.logged_rounds import LoggedRounds
from vitucb.policies.choice import Array

# Fewer rounds than these of an action are a matter of luck.
_ENOUGH_ROUNDS = 10


def uniform_play(log: LoggedRounds) -> Array:
    """Equal probability of every action on offer, float64 (n, K)."""
    on_offer = log.mask.astype(np.float64)
    share: Array = on_offer / on_offer.sum(axis=1, keepdims=True)
    return share


def best_fixed_action(
    log: LoggedRounds, propensities: NDArray[np.float64], rng: np.random.Generator
) -> tuple[Array, str]:
    """Always the action that earned most; uniform play where it is not on offer.

    Chosen and valued on the same rounds it would profit from their luck. So each half of the log is
    played with the action that was best in the other half.

    Args:
        log: The log.
        propensities: Probability of the actions taken, (n,).
        rng: Deals the rounds to halves.

    Returns:
        Probabilities, float64 (n, K), and a name that says which action, or which two.
    """
    half = rng.permutation(len(log)) % 2 == 0
    target, chosen = uniform_play(log), []
    for part in (half, ~half):
        best = _best_action(log, propensities, ~part)
        offered = part & (log.mask[:, best] == 1)
        target[offered] = np.eye(log.num_arms)[best]
        chosen.append(best)
    kind = "action" if log.action_names else "position"
    names = log.action_names or tuple(map(str, range(log.num_arms)))
    which = " or ".join(dict.fromkeys(names[best] for best in chosen))
    return target, f"best fixed {kind}: {which}"


def _best_action(
    log: LoggedRounds, propensities: NDArray[np.float64], among: NDArray[np.bool_]
) -> int:
    """The action of the largest self-normalised mean reward in the rounds `among`."""
    actions, inverse = log.actions[among], 1 / propensities[among]
    count = np.bincount(actions, minlength=log.num_arms)
    total = np.bincount(actions, inverse, log.num_arms)
    earned = np.bincount(actions, inverse * log.rewards[among], log.num_arms)
    is_known = count >= min(_ENOUGH_ROUNDS, count.max())
    mean = np.where(is_known, earned / np.maximum(total, 1e-300), -np.inf)
    return int(mean.argmax())
