"""Agents that never look at an image: random, oracle, UCB1 and Gaussian Thompson sampling on slots.

They are the sanity gates of every report: where slots are shuffled, an agent that only knows
slots has linear regret; where they are fixed, a contextual agent that loses to them has a
problem.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vitucb.config import AgentConfig
from vitucb.policies import argmax_probabilities
from vitucb.seeding import numpy_generator
from vitucb.types import Decision, Observation, State

# Draws per decision for the propensity of Thompson sampling: standard error at most 0.016.
_PROPENSITY_DRAWS = 1_000


class SlotStatistics:
    """Pulls, sums and sums of squares of the rewards of every slot."""

    def __init__(self, num_arms: int) -> None:
        self.pulls = np.zeros(num_arms)
        self.sums = np.zeros(num_arms)
        self.squares = 0.0

    def add(self, slot: int, reward: float) -> None:
        """Count one reward of a slot."""
        self.pulls[slot] += 1
        self.sums[slot] += reward
        self.squares += reward**2

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean reward per slot, float64 (K,); 0 for slots never pulled."""
        means: NDArray[np.float64] = self.sums / np.maximum(self.pulls, 1)
        return means

    @property
    def noise(self) -> float:
        """Pooled standard deviation within slots, reward units; 1 before it can be estimated."""
        freedom = self.pulls.sum() - np.count_nonzero(self.pulls)
        if freedom < 2:
            return 1.0
        within = self.squares - (self.sums**2 / np.maximum(self.pulls, 1)).sum()
        return float(np.sqrt(max(within, 0.0) / freedom))


class SlotAgent:
    """What UCB1 and Gaussian Thompson sampling share: statistics per slot and a generator."""

    parameters: dict[str, int] = {}  # noqa: RUF012  # read only

    def __init__(self, num_arms: int, rng: np.random.Generator) -> None:
        """Start with no pulls.

        Args:
            num_arms: Number of slots K.
            rng: Breaks ties and draws posteriors.
        """
        self.slots = SlotStatistics(num_arms)
        self.rounds = 0
        self._rng = rng

    def update(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        """Count the reward of the chosen slot."""
        self.slots.add(decision.action, reward)
        return {}

    def _decide(
        self,
        probabilities: NDArray[np.float64],
        mean: NDArray[np.float64],
        width: NDArray[np.float64],
        bonus: NDArray[np.float64],
    ) -> Decision:
        action = int(self._rng.choice(len(probabilities), p=probabilities))
        self.rounds += 1
        return Decision(
            action, float(probabilities[action]), mean, width, None, self.rounds - 1, bonus
        )

    def _untried(self, mask: NDArray[np.int8]) -> NDArray[np.int8]:
        """Allowed slots never pulled, or `mask` if there are none."""
        untried: NDArray[np.int8] = (mask.astype(bool) & (self.slots.pulls == 0)).astype(np.int8)
        return untried if untried.any() else mask

    def state_dict(self) -> State:
        """Statistics, counter and generator."""
        return {
            "pulls": self.slots.pulls.copy(),
            "sums": self.slots.sums.copy(),
            "squares": self.slots.squares,
            "rounds": self.rounds,
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self.slots.pulls = np.array(state["pulls"], np.float64)
        self.slots.sums = np.array(state["sums"], np.float64)
        self.slots.squares = float(state["squares"])
        self.rounds = int(state["rounds"])
        self._rng.bit_generator.state = state["rng"]


class RandomAgent(SlotAgent):
    """A uniformly random allowed arm."""

    def select_action(self, obs: Observation) -> Decision:
        """Choose uniformly."""
        mask = obs["action_mask"]
        zeros = np.zeros(len(mask))
        return self._decide(argmax_probabilities(zeros, mask), zeros, zeros, zeros)


class UCB1(SlotAgent):
    """UCB1: mean + sigma sqrt(2 ln t / n) with the pooled noise estimate as sigma.

    Auer, Cesa-Bianchi, Fischer, "Finite-time analysis of the multiarmed bandit problem", 2002.
    Their bound is for rewards in [0, 1], where sigma = 1; the estimate makes the rule free of
    units.
    """

    def select_action(self, obs: Observation) -> Decision:
        """Choose an untried slot if there is one, else the largest upper bound."""
        mask, pulls = obs["action_mask"], self.slots.pulls
        width = self.slots.noise / np.sqrt(np.maximum(pulls, 1))
        bonus = width * np.sqrt(2 * np.log(max(self.rounds, 1)))
        probabilities = argmax_probabilities(self.slots.means + bonus, self._untried(mask))
        return self._decide(probabilities, self.slots.means, width, bonus)


class GaussianThompson(SlotAgent):
    """Thompson sampling with a Gaussian posterior per slot, N(mean, sigma^2 / n).

    Agrawal and Goyal, "Further optimal regret bounds for Thompson sampling", 2013, with the pooled
    noise estimate as sigma. The propensity is a Monte Carlo estimate from 1,000 draws.
    """

    def select_action(self, obs: Observation) -> Decision:
        """Choose the largest posterior draw; untried slots first."""
        mask, slots = obs["action_mask"], self.slots
        allowed = self._untried(mask).astype(bool)
        width = slots.noise / np.sqrt(np.maximum(slots.pulls, 1))
        noise = self._rng.standard_normal((_PROPENSITY_DRAWS + 1, len(mask)))
        draws = np.where(allowed, slots.means + width * noise, -np.inf)
        action = int(np.argmax(draws[0]))
        wins = np.count_nonzero(np.argmax(draws, axis=1) == action)
        self.rounds += 1
        return Decision(
            action=action,
            propensity=wins / len(draws),
            mean=slots.means,
            width=width,
            phi=None,
            round=self.rounds - 1,
            bonus=draws[0] - slots.means if allowed.all() else np.zeros(len(mask)),
        )


class Oracle(SlotAgent):
    """Chooses the arm with the largest mean reward, which it reads from the environment."""

    def __init__(self, env: gym.Env[Any, Any], num_arms: int, rng: np.random.Generator) -> None:
        """Watch `env`.

        Args:
            env: An environment with the property `expected_rewards`, float64 (K,).
            num_arms: Number of slots K.
            rng: Breaks ties.

        Raises:
            ValueError: If the environment does not tell its mean rewards.
        """
        super().__init__(num_arms, rng)
        if not hasattr(type(env.unwrapped), "expected_rewards"):
            raise ValueError(
                f"agent oracle needs an environment with expected_rewards, {env} has none; "
                "leave the oracle out"
            )
        self._env: Any = env.unwrapped

    def select_action(self, obs: Observation) -> Decision:
        """Choose the best arm."""
        mean = np.array(self._env.expected_rewards, np.float64)
        zeros = np.zeros_like(mean)
        return self._decide(argmax_probabilities(mean, obs["action_mask"]), mean, zeros, zeros)


def _slot_arguments(env: gym.Env[Any, Any], seed: int) -> tuple[int, np.random.Generator]:
    space = env.action_space
    if not isinstance(space, gym.spaces.Discrete):
        raise ValueError(f"env.id: the action space {space} is not Discrete(K)")
    return int(space.n), numpy_generator(seed, "policy")


def build_random(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `random`."""
    return RandomAgent(*_slot_arguments(env, seed))


def build_ucb1(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `ucb1`."""
    return UCB1(*_slot_arguments(env, seed))


def build_gaussian_ts(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `gaussian-ts`."""
    return GaussianThompson(*_slot_arguments(env, seed))


def build_oracle(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `oracle`."""
    return Oracle(env, *_slot_arguments(env, seed))
