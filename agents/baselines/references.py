"""Agents that read the mean rewards from the environment: the marks the others are held against."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np

from vitucb.agents.baselines.context_free import SlotAgent, slot_arguments
from vitucb.config import AgentConfig
from vitucb.policies import Array, argmax_probabilities
from vitucb.types import Decision, Observation, State


def telling(env: gym.Env[Any, Any], agent: str) -> gym.Env[Any, Any]:
    """`env`, which tells its mean rewards.

    Raises:
        ValueError: If it does not.
    """
    if not hasattr(type(env.unwrapped), "expected_rewards"):
        raise ValueError(
            f"agent {agent} needs an environment with expected_rewards, {env} has none; "
            "leave it out"
        )
    return env


class Oracle(SlotAgent):
    """Chooses the arm with the largest mean reward, which it reads from the environment."""

    tied_to = "an environment that tells its mean rewards"

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
        self._env: Any = telling(env, "oracle").unwrapped

    def select_action(self, obs: Observation) -> Decision:
        """Choose the best arm."""
        mean = np.array(self._env.expected_rewards, np.float64)
        if np.isnan(mean).any():
            raise ValueError(
                f"agent oracle: {self._env} knows no mean rewards, as a log of real rewards does "
                "not; leave it out"
            )
        zeros = np.zeros_like(mean)
        return self._decide(argmax_probabilities(mean, obs["action_mask"]), mean, zeros, zeros)


class BestFixedArm(SlotAgent):
    """Always the slot with the largest mean reward over the whole horizon, known in hindsight.

    Regret against it says what looking at the images buys. On the first round a copy of the
    environment is played to its end: contexts do not depend on actions, so the copy shows the
    mean rewards to come. Where the best slot is masked, the next best is chosen.
    """

    tied_to = "an environment that tells its mean rewards"

    def __init__(self, env: gym.Env[Any, Any], num_arms: int, rng: np.random.Generator) -> None:
        """Watch `env`.

        Args:
            env: The environment that will be played, whose episodes end.
            num_arms: Number of slots K.
            rng: Breaks ties.

        Raises:
            ValueError: If the environment does not tell its mean rewards, or never ends.
        """
        super().__init__(num_arms, rng)
        self._env = telling(env, "best-fixed-arm")
        if env.spec is None or not env.spec.max_episode_steps:
            raise ValueError(
                f"agent best-fixed-arm needs a horizon, {env} has none; give max_episode_steps"
            )
        self._means: Array | None = None

    def select_action(self, obs: Observation) -> Decision:
        """Choose the best allowed slot in hindsight."""
        if self._means is None:
            self._means = mean_rewards_ahead(self._env, obs)
        zeros = np.zeros_like(self._means)
        probabilities = argmax_probabilities(self._means, obs["action_mask"])
        return self._decide(probabilities, self._means, zeros, zeros)

    def state_dict(self) -> State:
        """That of the base and the mean rewards in hindsight."""
        return super().state_dict() | {"means": self._means}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._means = None if state["means"] is None else np.array(state["means"], np.float64)


def mean_rewards_ahead(env: gym.Env[Any, Any], obs: Observation) -> Array:
    """Mean over the rest of the episode of every slot's expected reward, float64 (K,).

    Args:
        env: An environment with `expected_rewards`; not changed.
        obs: Its present observation.
    """
    dataset = getattr(env.unwrapped, "dataset", None)
    # The images are read only; a copy of them would be most of the memory.
    twin: Any = copy.deepcopy(env, {id(dataset): dataset})
    total, rounds, over = np.zeros(len(obs["action_mask"])), 0, False
    while not over:
        total += twin.unwrapped.expected_rewards
        rounds += 1
        allowed = int(np.argmax(obs["action_mask"]))
        obs, _, terminated, truncated, _ = twin.step(allowed)
        over = terminated or truncated
    means: Array = total / rounds
    return means


def build_oracle(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `oracle`."""
    return Oracle(env, *slot_arguments(config, env, seed))


def build_best_fixed_arm(
    config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str
) -> Any:
    """Factory of `best-fixed-arm`."""
    return BestFixedArm(env, *slot_arguments(config, env, seed))
