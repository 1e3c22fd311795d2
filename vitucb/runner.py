"""The interaction loop: one long episode, one `Round` at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np

from vitucb.seeding import stream_seed
from vitucb.types import Agent, Decision, Observation, Round


def run(
    env: gym.Env[Any, Any], agent: Agent, *, seed: int = 0, num_rounds: int | None = None
) -> Iterator[Round]:
    """Play `agent` in `env` and yield every finished round.

    Args:
        env: An image bandit; its info holds expected_reward, optimal_reward, regret,
            optimal_action.
        agent: The bandit algorithm.
        seed: Seed of the environment; agents run with one seed face the same contexts and noise.
        num_rounds: Stop after so many rounds; by default when the environment truncates.

    Raises:
        ValueError: If a reward is not finite. Rounds yielded before stay valid.
    """
    obs, _ = env.reset(seed=stream_seed(seed, "env"))
    cumulative, index, over = 0.0, 0, False
    while not over and (num_rounds is None or index < num_rounds):
        expected = getattr(env.unwrapped, "expected_rewards", None)
        started = time.perf_counter()
        decision = agent.select_action(obs)
        elapsed = time.perf_counter() - started
        next_obs, reward, terminated, truncated, info = env.step(decision.action)
        _require_finite(float(reward), index)
        started = time.perf_counter()
        metrics = agent.update(obs, decision, float(reward))
        elapsed += time.perf_counter() - started
        cumulative += float(info["regret"])
        yield _round(
            index, obs, decision, float(reward), info, expected, cumulative, metrics, elapsed
        )
        obs, index, over = next_obs, index + 1, bool(terminated or truncated)


def _require_finite(reward: float, index: int) -> None:
    if not math.isfinite(reward):
        raise ValueError(
            f"round {index}: the environment returned reward {reward}; rewards must be finite "
            "numbers; the rounds before it are kept"
        )


def _round(
    index: int,
    obs: Observation,
    decision: Decision,
    reward: float,
    info: dict[str, Any],
    expected: Any,
    cumulative: float,
    metrics: dict[str, float],
    seconds: float,
) -> Round:
    return Round(
        index=index,
        observation=obs,
        decision=decision,
        reward=reward,
        expected_reward=float(info["expected_reward"]),
        optimal_reward=float(info["optimal_reward"]),
        optimal_action=int(info["optimal_action"]),
        expected_rewards=None if expected is None else np.asarray(expected, np.float64),
        regret=float(info["regret"]),
        cumulative_regret=cumulative,
        metrics=metrics,
        seconds=seconds,
    )
