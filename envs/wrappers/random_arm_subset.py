"""A random subset of the arms on offer each round."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vitucb.envs.wrappers.base import (
    BanditWrapper,
    Obs,
    StepResult,
    require_attribute,
    require_integer,
)


class RandomArmSubset(BanditWrapper):
    """Masks random arms each round: their `action_mask` is 0, and choosing one is an error.

    Every round the number of arms on offer is uniform on min_arms..max_arms, and so is the subset
    of that size among the arms the environment itself offers. `optimal_reward`, `optimal_action`
    and `regret` are those among the arms on offer; `env.unwrapped.expected_rewards` still has all
    K means.

    Args:
        env: An image bandit with `expected_rewards` (K,).
        min_arms: Fewest arms on offer.
        max_arms: Most arms on offer; all K if None.

    Raises:
        ValueError: If an argument is out of range, or the environment has no `expected_rewards`; in
            `step`, if the action is masked.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], min_arms: int = 2, max_arms: int | None = None
    ) -> None:
        super().__init__(env, min_arms=min_arms, max_arms=max_arms)
        require_attribute(env, "expected_rewards", "RandomArmSubset")
        if not isinstance(env.action_space, gymnasium.spaces.Discrete):
            raise ValueError(f"RandomArmSubset needs actions 0..K-1, not {env.action_space}")
        arms = int(env.action_space.n)
        self.min_arms = require_integer("min_arms", min_arms, 1)
        self.max_arms = (
            arms if max_arms is None else require_integer("max_arms", max_arms, self.min_arms)
        )
        if max(self.min_arms, self.max_arms) > arms:
            raise ValueError(
                f"min_arms {min_arms}, max_arms {max_arms}: there are {arms} arms; give at most "
                f"{arms}"
            )

    def _begin(self, obs: Obs) -> Obs:
        return self._masked(obs)

    def step(self, action: Any) -> StepResult:
        """Play a round; its optimum is the best arm on offer."""
        on_offer = np.flatnonzero(self._mask)
        if 0 <= action < len(self._mask) and not self._mask[action]:
            raise ValueError(
                f"action {action} is masked this round; choose one of {on_offer.tolist()}"
            )
        inner: Any = self.env.unwrapped
        means: NDArray[np.float64] = np.array(inner.expected_rewards, np.float64)
        obs, reward, terminated, truncated, info = self.env.step(action)
        best = int(on_offer[means[on_offer].argmax()])
        info = info | {
            "optimal_reward": float(means[best]),
            "regret": float(means[best] - means[action]),
            "optimal_action": best if np.isfinite(means[best]) else -1,
        }
        return self._masked(obs), float(reward), terminated, truncated, info

    def _masked(self, obs: Obs) -> Obs:
        """Draw the mask of the next round; `obs` with it."""
        count = self.rng.integers(self.min_arms, self.max_arms, endpoint=True)
        # In a random order, so that the first ones are a uniform subset.
        offered = self.rng.permutation(np.flatnonzero(obs["action_mask"]))
        self._mask = np.zeros(len(obs["action_mask"]), np.int8)
        self._mask[offered[:count]] = 1
        return obs | {"action_mask": self._mask.copy()}
