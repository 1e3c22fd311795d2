"""Slates: several arms shown at once, in positions from first to last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitucb.envs.wrappers.base import (
    BanditWrapper,
    Obs,
    StepResult,
    require_attribute,
    require_integer,
)


@dataclass(frozen=True, slots=True)
class Positions:
    """What the positions of a slate bring, first position first; n of them may be filled so far.

    Attributes:
        rewards: What each pays, float64 (n,).
        expected: Mean rewards, float64 (n,).
        best: Arms of the best slate, int64 (m,): on offer, by their mean.
        optimal: Mean rewards of that slate, float64 (m,).
    """

    rewards: NDArray[np.float64]
    expected: NDArray[np.float64]
    best: NDArray[np.int64]
    optimal: NDArray[np.float64]

    def info(self) -> dict[str, Any]:
        """That of the slate: sums over its positions, the best arms, and `rewards` (m,)."""
        expected, optimal = float(self.expected.sum()), float(self.optimal.sum())
        return {
            "expected_reward": expected,
            "optimal_reward": optimal,
            "regret": optimal - expected,
            "optimal_action": self.best,
            "rewards": self.rewards,
        }

    def info_of(self, position: int) -> dict[str, Any]:
        """That of one position, beside the same position of the best slate."""
        expected, optimal = float(self.expected[position]), float(self.optimal[position])
        return {
            "expected_reward": expected,
            "optimal_reward": optimal,
            "regret": optimal - expected,
            "optimal_action": int(self.best[position]),
        }


class SlateArms(BanditWrapper):
    """Shows m different arms at once and pays each position: a semi-bandit, or clicks.

    ## Description
    A slate is judged position by position. Without `examination` every position pays its arm's
    reward. With it, position k is looked at with probability e_k, independently of the others, and
    pays nothing where it is not: the position-based model of clicks (Richardson et al., "Predicting
    clicks", 2007), whose mean reward is e_k mu(a). Images, rewards of all arms and what is looked
    at are drawn before the action is known.

    ## Action Space
    `MultiDiscrete([K] * m)`: the arm of every position. A position that repeats an arm shown
    before it pays nothing.

    ## Rewards
    The sum over the positions.

    ## Info
    `rewards` float64 (m,), what each position paid; `optimal_action` int64 (m,), the best slate;
    `expected_reward`, `optimal_reward` and `regret`, sums over the positions.

    Args:
        env: An image bandit with `expected_rewards` (K,) and `arm_rewards` (K,), what every arm
            would pay now.
        slots: Number of positions m, at most K.
        examination: Probability that each position is looked at, (m,), in (0, 1], none above the
            one before it; all 1 if None.

    Raises:
        ValueError: If an argument is out of range, or the environment lacks what is needed; in
            `step`, if an arm is masked or there is none of that number.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        slots: int = 3,
        examination: Sequence[float] | None = None,
    ) -> None:
        super().__init__(env, slots=slots, examination=examination)
        for attribute in ("expected_rewards", "arm_rewards"):
            require_attribute(env, attribute, "SlateArms")
        if not isinstance(env.action_space, gymnasium.spaces.Discrete):
            raise ValueError(f"SlateArms needs actions 0..K-1, not {env.action_space}")
        self.num_arms = int(env.action_space.n)
        self.slots = require_integer("slots", slots, 1)
        if self.slots > self.num_arms:
            raise ValueError(
                f"slots {slots}: there are {self.num_arms} arms; give at most {self.num_arms}"
            )
        _refuse_changed_rewards(env)
        self.examination = checked_examination(examination, self.slots)
        self.action_space = gymnasium.spaces.MultiDiscrete(np.full(self.slots, self.num_arms))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Start an episode; without a seed every stream goes on where it was."""
        obs, info = super().reset(seed=seed, options=options)
        unknown, nobody = np.full(self.slots, math.nan), np.full(self.slots, -1)
        return obs, info | {"optimal_action": nobody, "rewards": unknown}

    def _begin(self, obs: Obs) -> Obs:
        return self._drawn(obs)

    def step(self, action: ArrayLike) -> StepResult:
        """Show a slate (m,): pay its positions and draw the next round."""
        slate = np.asarray(action)
        if slate.shape != (self.slots,) or slate.dtype.kind not in "iu":
            raise ValueError(f"slate {slate.tolist()} must be {self.slots} numbers of arms")
        for arm in slate.tolist():
            self.check_arm(arm)
        shown = self.look(slate.tolist())
        obs, _, terminated, truncated, info = self.env.step(int(slate[0]))
        paid = float(shown.rewards.sum())
        return self._drawn(obs), paid, terminated, truncated, info | shown.info()

    def look(self, slate: Sequence[int]) -> Positions:
        """What a slate, or the first positions of one, would bring in this round."""
        inner: Any = self.env.unwrapped
        means: NDArray[np.float64] = np.array(inner.expected_rewards, np.float64)
        drawn: NDArray[np.float64] = np.array(inner.arm_rewards, np.float64)
        filled, arms = len(slate), np.array(slate, np.int64)
        is_new = np.array([arm not in slate[:k] for k, arm in enumerate(slate)], bool)
        on_offer = np.flatnonzero(self._mask)
        # Stable, so that of equal arms the first is the best, as argmax has it.
        best = on_offer[np.argsort(-means[on_offer], kind="stable")[: self.slots]]
        pays = is_new & self._examined[:filled]
        return Positions(
            rewards=np.where(pays, drawn[arms], 0.0),
            expected=np.where(is_new, self.examination[:filled] * means[arms], 0.0),
            best=best,
            optimal=self.examination * means[best],
        )

    def check_arm(self, arm: int) -> None:
        """Refuse what is no arm, or not on offer.

        Raises:
            ValueError: If so.
        """
        if not 0 <= arm < self.num_arms:
            raise ValueError(f"action {arm} is no arm; choose 0..{self.num_arms - 1}")
        if not self._mask[arm]:
            raise ValueError(
                f"action {arm} is masked this round; choose one of "
                f"{np.flatnonzero(self._mask).tolist()}"
            )

    def _drawn(self, obs: Obs) -> Obs:
        """Draw what of the next round is looked at; `obs` as it is."""
        self._mask = np.array(obs["action_mask"])
        if (offered := int(self._mask.sum())) < self.slots:
            raise ValueError(f"slots {self.slots}: the round offers {offered} arms; offer more")
        self._examined = self.rng.random(self.slots) < self.examination
        return obs


def checked_examination(given: Sequence[float] | None, slots: int) -> NDArray[np.float64]:
    """Probabilities that positions are looked at, float64 (m,); ones if None.

    Raises:
        ValueError: If there is not one for each, or one is no probability above 0 or larger than
            that of the position before it.
    """
    values = np.ones(slots) if given is None else np.array(given, np.float64)
    if values.shape != (slots,):
        raise ValueError(f"examination {given}: give {slots} probabilities, one for each slot")
    if not ((values > 0) & (values <= 1)).all() or (np.diff(values) > 0).any():
        raise ValueError(
            f"examination {values.tolist()}: give probabilities in (0, 1], none above the one "
            "before it: the first position is the one looked at most"
        )
    return values


def worth_in_last_position(
    reward: float, position: int, examination: Sequence[float] | NDArray[np.float64]
) -> float:
    """What a reward says its arm is worth: an unbiased estimate, free of its position.

    Inverse propensity weighting, e_m / e_k times the reward of position k (Joachims et al.,
    "Unbiased learning-to-rank with biased feedback", 2017 - https://arxiv.org/abs/1608.04468). The
    factor e_m, that of the last position, is ours: rewards in [0, 1] stay there. Its mean is what
    the arm would earn in the last position, wherever it was shown.

    Args:
        reward: What the position paid.
        position: Its number, 0-based.
        examination: Probability that each position is looked at, (m,).
    """
    return float(examination[-1]) / float(examination[position]) * reward


def _refuse_changed_rewards(env: gymnasium.Env[Any, Any]) -> None:
    """Rewards are those that the innermost environment has drawn: changes on the way are lost."""
    while isinstance(env, gymnasium.Wrapper):
        changes = isinstance(env, gymnasium.RewardWrapper | gymnasium.wrappers.NormalizeReward)
        if changes or hasattr(env, "arrivals"):
            raise ValueError(
                f"SlateArms wraps {type(env).__name__}, whose rewards it would pass by; leave it "
                "out"
            )
        env = env.env
