"""An image bandit whose every corner can be set: arms, images, masks, rewards."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray


class OddEnv(gym.Env[dict[str, Any], np.int64]):
    """Shows random arms of a few images and pays what it is told to.

    Args:
        num_arms: K, from 1.
        num_images: Distinct images there are, from 1.
        pay: Reward of `(round, action)`.
        mask: Mask int8 (K,) of a round; all ones if None.
        hides: Whether regrets are unknown, NaN.
        size: Side of the images in pixels.
    """

    def __init__(
        self,
        num_arms: int = 3,
        num_images: int = 6,
        pay: Callable[[int, int], float] = lambda index, action: float(action == 0),
        mask: Callable[[int], NDArray[np.int8]] | None = None,
        hides: bool = False,
        size: int = 8,
    ) -> None:
        self._arms, self._pay, self._mask, self._hides = num_arms, pay, mask, hides
        shape = (num_images, size, size, 3)
        self._pictures = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        box = gym.spaces.Box(0, 255, (num_arms, size, size, 3), np.uint8)
        mask_space = gym.spaces.MultiBinary(num_arms)
        self.observation_space = gym.spaces.Dict({"images": box, "action_mask": mask_space})
        self.action_space = gym.spaces.Discrete(num_arms)
        self.round = 0

    @property
    def expected_rewards(self) -> NDArray[np.float64]:
        """Zeros: nothing here has a mean."""
        return np.zeros(self._arms)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Start with round 0."""
        super().reset(seed=seed)
        self.round = 0
        return self._observation(), {}

    def step(
        self, action: np.int64
    ) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Pay and go on; the episode has no end."""
        reward = self._pay(self.round, int(action))
        self.round += 1
        hidden = math.nan if self._hides else 0.0
        info = {"expected_reward": hidden, "optimal_reward": hidden, "regret": hidden}
        return self._observation(), reward, False, False, info | {"optimal_action": -1}

    def _observation(self) -> dict[str, NDArray[Any]]:
        items = self.np_random.integers(len(self._pictures), size=self._arms)
        mask = np.ones(self._arms, np.int8) if self._mask is None else self._mask(self.round)
        return {"images": self._pictures[items], "action_mask": mask}


def _make(**arguments: Any) -> gym.Env[Any, Any]:
    return OddEnv(**arguments)


def odd_env(rounds: int = 1_000, **arguments: Any) -> gym.Env[Any, Any]:
    """An `OddEnv` whose episode ends after `rounds` rounds."""
    spec = EnvSpec(
        "soak/Odd-v0", entry_point=_make, max_episode_steps=rounds, disable_env_checker=True
    )
    return gym.make(spec, **arguments)
