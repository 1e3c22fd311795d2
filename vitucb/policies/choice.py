"""What a policy is, what it returns, and how an action is drawn from probabilities."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.int8]
"""int8 (K,): 1 where the arm may be chosen."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a policy decided.

    Attributes:
        action: Chosen arm.
        propensity: Probability of choosing it, in (0, 1].
        bonus: What was added to the mean of every arm, float64 (K,), reward units.
        probabilities: Probability of choosing each arm, float64 (K,), sums to 1, 0 where masked;
            None if the policy does not know them.
        standard_error: Of the propensity where it is a Monte Carlo estimate; 0 where it is exact.
    """

    action: int
    propensity: float
    bonus: Array
    probabilities: Array | None = None
    standard_error: float = 0.0

    def known_probabilities(self) -> Array:
        """The probabilities.

        Raises:
            ValueError: If the policy does not tell them.
        """
        if self.probabilities is None:
            raise ValueError(
                "the policy tells no probabilities; give its Choice `probabilities`, float64 (K,)"
            )
        return self.probabilities


@contextlib.contextmanager
def undrawn(rng: np.random.Generator) -> Iterator[None]:
    """Afterwards `rng` is where it was before."""
    before = rng.bit_generator.state
    try:
        yield
    finally:
        rng.bit_generator.state = before


Policy: TypeAlias = Callable[[Array, Array, Mask, int, np.random.Generator], Choice]
"""Called as policy(mean, width, mask, round, rng)."""


class JointPolicy(Protocol):
    """A policy that can use the joint covariance of the arms; call it through `choose`."""

    wants_covariance: bool

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
        """Choose; `covariance()` is that of all arms, float64 (K, K), squared reward units."""
        ...


def choose(
    policy: Policy,
    mean: Array,
    width: Array,
    mask: Mask,
    round: int,
    rng: np.random.Generator,
    covariance: Callable[[], Array],
) -> Choice:
    """Let `policy` choose, with the joint covariance if its `wants_covariance` is true.

    Args:
        policy: A policy.
        mean: Estimated mean rewards, float64 (K,).
        width: Confidence widths, float64 (K,), >= 0, reward units.
        mask: 1 where the arm may be chosen, int8 (K,).
        round: 0-based round.
        rng: Source of chance.
        covariance: Computes the joint covariance of the arms, float64 (K, K), whose diagonal is
            width^2; called only if it is wanted.

    Raises:
        ValueError: If the policy returns no choice.
    """
    if getattr(policy, "wants_covariance", False):
        joint = cast(JointPolicy, policy)
        choice: object = joint(mean, width, mask, round, rng, covariance=covariance)
    else:
        choice = policy(mean, width, mask, round, rng)
    if not isinstance(choice, Choice):
        raise ValueError(
            f"the policy returned a {type(choice).__name__}; give a vitucb.policies.Choice, as "
            "vitucb.policies.draw makes it"
        )
    return choice


def check_scores(score: Array, mask: Mask) -> NDArray[np.bool_]:
    """The mask as booleans, after a look at the scores.

    Raises:
        ValueError: If every arm is masked, or an unmasked score is not finite.
    """
    allowed = mask.astype(bool)
    if not allowed.any():
        raise ValueError("action_mask has no allowed arm; the environment must offer at least one")
    if not np.isfinite(score[allowed]).all():
        raise ValueError(f"scores {score} are not finite; lower the learning rate")
    return allowed


def argmax_probabilities(score: Array, mask: Mask) -> Array:
    """Uniform over the largest scores among the unmasked arms, float64 (K,), sums to 1.

    Raises:
        ValueError: If every arm is masked, or an unmasked score is not finite.
    """
    allowed = check_scores(score, mask)
    best = allowed & (score == score[allowed].max())
    probabilities: Array = best / best.sum()
    return probabilities


def draw(probabilities: Array, bonus: Array, rng: np.random.Generator) -> Choice:
    """An action drawn from `probabilities` (K,)."""
    action = int(rng.choice(len(probabilities), p=probabilities))
    return Choice(action, float(probabilities[action]), bonus, probabilities)
