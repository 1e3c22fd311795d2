"""The agent `item-ucb`: the running mean of every distinct image, blind to what it shows.

What remembering alone is worth where images come again. An image is known by a hash of its pixels
and worth m + u_i with u_i ~ N(0, tau^2), m the mean of all rewards; n rewards with mean y_i and
noise sigma^2 leave the posterior mean m + n / (n + k) (y_i - m) and deviation sigma / sqrt(n + k),
k = sigma^2 / tau^2, and optimism adds alpha times that. Where all arms share one image, an item is
the image together with the arm. sigma is the deviation within items, tau what is left of that of
all rewards: both have the unit of the reward, and no unit is assumed.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from vitucb.agents.context import require_arms
from vitucb.agents.options import read_options
from vitucb.agents.saving import Savable
from vitucb.config import AgentConfig
from vitucb.learning.awaited_choices import AwaitedChoices
from vitucb.learning.experts.kernel.reward_sums import RewardSums
from vitucb.learning.image_memory import KEY_BYTES, image_key
from vitucb.learning.reward_scale import RewardScale
from vitucb.policies import Array, argmax_probabilities, draw
from vitucb.seeding import numpy_generator
from vitucb.types import Decision, Observation, State, require_usable

# Rewards that the prior of the noise, half of the variance of all, counts for.
_PRIOR_COUNT = 2.0
# Least share of tau^2 in the variance of the rewards: none at all would end all exploration.
_LEAST_SHARE = 0.05
_AWAITED = 10_000
_TINY = 1e-280  # a variance below has no quotients
_NO_FEATURES = np.zeros(0)


@dataclass(frozen=True)
class ItemOptions:
    """Settings of `item-ucb` alone.

    Attributes:
        alpha: Multiplier of the posterior deviation.
        capacity: Most items whose rewards are kept; past it the one rewarded least recently is
            forgotten.
    """

    alpha: float = 1.0
    capacity: int = 65_536


class ItemUCB(Savable):
    """UCB on the posterior of every item, with the variances estimated."""

    parameters: dict[str, int] = {}  # noqa: RUF012  # read only

    def __init__(
        self, options: ItemOptions, rng: np.random.Generator, discount: float = 1.0
    ) -> None:
        """Start with nothing seen.

        Args:
            options: Multiplier and bound.
            rng: Breaks ties.
            discount: Weight of an observation after one more round, 1 for none.

        Raises:
            ValueError: If a setting is out of range.
        """
        if not (math.isfinite(options.alpha) and options.alpha >= 0):
            raise ValueError(f"agent.options.alpha {options.alpha} must be finite and >= 0")
        if not 0 < discount <= 1:
            raise ValueError(f"agent.training.discount {discount} must be in (0, 1]")
        self._alpha, self._discount, self._rng = options.alpha, discount, rng
        self._items = RewardSums(options.capacity)
        self._awaited = AwaitedChoices(_AWAITED, discount)
        self._scale = RewardScale()
        self._rounds = 0

    def select_action(self, obs: Observation) -> Decision:
        """Choose the largest upper bound; ties are broken at random.

        Raises:
            ValueError: If images and arms do not match, or no arm is allowed.
        """
        require_arms(obs)
        if self._discount < 1:
            self._items.discount(self._discount)
        keys = item_keys(obs)
        mean, width = self._posterior(keys)
        bonus = self._alpha * width
        choice = draw(argmax_probabilities(mean + bonus, obs["action_mask"]), bonus, self._rng)
        self._awaited.add(keys[choice.action], _NO_FEATURES)
        self._rounds += 1
        return Decision(
            action=choice.action,
            propensity=choice.propensity,
            mean=mean,
            width=width,
            phi=None,
            round=self._rounds - 1,
            bonus=bonus,
        )

    def probabilities(self, obs: Observation) -> Array:
        """Probability of choosing each arm now, float64 (K,); changes nothing.

        Raises:
            ValueError: If images and arms do not match, or no arm is allowed.
        """
        require_arms(obs)
        mean, width = self._posterior(item_keys(obs), self._discount)
        return argmax_probabilities(mean + self._alpha * width, obs["action_mask"])

    def update(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        """Learn from the reward of an earlier decision; it weighs what it would by now.

        Raises:
            UnusableRewardError: If it is no number, not finite or above 1e30 in size.
        """
        (reward,) = require_usable(reward)
        key = item_keys(obs)[decision.action]
        age = self._rounds - 1 - decision.round
        self._awaited.take(key, age)
        self._scale.add(reward)
        self._items.add(key, reward, self._discount**age)
        return {"score/noise": math.sqrt(self._variances()[0])}

    def _posterior(self, keys: list[bytes], weight: float = 1.0) -> tuple[Array, Array]:
        """Means and deviations of items (n,), every reward counted `weight` times more."""
        noise, spread = self._variances(weight)
        prior = noise / spread
        level = self._items.mean
        counts, sums = self._items.look_up(keys, level)
        awaited = self._discount * np.array([self._awaited.count(key) for key in keys])
        mean = level + weight * sums / (weight * counts + prior)
        width = np.sqrt(noise / (weight * counts + awaited + prior))
        return mean, width

    def _variances(self, weight: float = 1.0) -> tuple[float, float]:
        """Variance of the noise and of the items' worth, squared reward units, both above 0."""
        whole = max(self._scale.std**2, _TINY)
        freedom = weight * self._items.freedom
        within = weight * self._items.within()
        noise = (within + _PRIOR_COUNT * whole / 2) / (freedom + _PRIOR_COUNT)
        # A deviation is above 0 as `RewardScale.std` is; a noise of 0 has no width to divide by.
        noise = max(noise, 1e-12 * whole)
        return noise, max(whole - noise, _LEAST_SHARE * whole)

    def state_dict(self) -> State:
        """Items, what is awaited, scale of the rewards, counter and generator."""
        return {
            "items": self._items.state_dict(),
            "awaited": self._awaited.state_dict(),
            "scale": self._scale.state_dict(),
            "rounds": self._rounds,
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._items.load_state_dict(state["items"])
        self._awaited.load_state_dict(state["awaited"])
        self._scale.load_state_dict(state["scale"])
        self._rounds = int(state["rounds"])
        self._rng.bit_generator.state = state["rng"]


def item_keys(obs: Observation) -> list[bytes]:
    """What tells items apart, one for every arm: its image, or the shared image and the arm."""
    images, num_arms = obs["images"], len(obs["action_mask"])
    keys = [image_key(image) for image in images]
    if len(images) == num_arms:
        return keys
    arms = (arm.to_bytes(4, "big") for arm in range(num_arms))
    return [hashlib.blake2b(keys[0] + arm, digest_size=KEY_BYTES).digest() for arm in arms]


def build(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `item-ucb`.

    Raises:
        ValueError: If a setting is not usable.
    """
    options = read_options(ItemOptions(), config)
    return ItemUCB(options, numpy_generator(seed, "policy"), config.training.discount)
