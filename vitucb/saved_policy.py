"""The policy of a saved agent, held still: a function from an observation to probabilities."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitucb.config import load_config
from vitucb.types import Agent, Observation

Array: TypeAlias = NDArray[np.float64]
PolicyFunction: TypeAlias = Callable[[Observation], Array]
"""Probability of every arm, float64 (K,), of an observation."""


def load_policy(folder: str | Path, *, device: str = "cpu") -> PolicyFunction:
    """The policy of the agent that a run folder's checkpoint holds, held still.

    Args:
        folder: A run folder with `config.yaml` and `checkpoint/`.
        device: Torch device.

    Returns:
        A function from an observation to the probability of every arm.

    Raises:
        ValueError: If the folder lacks a file, or the agent cannot be built.
    """
    from vitucb.checkpoint import load_state
    from vitucb.experiment import make_agent, make_env

    folder = Path(folder)
    config = load_config(folder / "config.yaml")
    env = make_env(config.env)
    agent = make_agent(config.agent.name, env, seed=config.seed, device=device, config=config.agent)
    agent.load_state_dict(load_state(folder / "checkpoint"))
    return held_still(agent)


def held_still(agent: Agent) -> PolicyFunction:
    """The present policy of `agent` as a function of the observation alone.

    The agent should not be used otherwise afterwards: its covariance no longer takes observations.

    Raises:
        ValueError: On a call, if the agent does not tell the probabilities of its arms.
    """
    return _HeldStill(agent)


class _HeldStill:
    """Scores observations with an agent and undoes what scoring does to it.

    Agents count a choice when they make it. Where that count is a feature covariance, its update is
    switched off, since restoring a covariance of a long history takes longer than scoring; all
    other agents are small, and get their state back after every call.
    """

    def __init__(self, agent: Any) -> None:
        from vitucb.covariance import FeatureCovariance

        self._agent = agent
        covariances = [v for v in vars(agent).values() if isinstance(v, FeatureCovariance)]
        for covariance in covariances:
            vars(covariance)["update"] = lambda *args, **kwargs: None
        self._state = None if covariances else copy.deepcopy(agent.state_dict())
        self._policy: _Watched | None = None
        if callable(getattr(agent, "_policy", None)):
            self._policy = _Watched(self._agent._policy)
            self._agent._policy = self._policy

    def __call__(self, obs: Observation) -> Array:
        decision = self._agent.select_action(obs)
        if self._state is not None:
            self._agent.load_state_dict(copy.deepcopy(self._state))
        told = getattr(decision, "probabilities", None)
        if told is None and self._policy is not None:
            told = getattr(self._policy.choice, "probabilities", None)
        if told is None:
            told = _optimistic_probabilities(decision, obs)
        return np.asarray(told, np.float64)


class _Watched:
    """A policy that remembers its choice, and for which the round stands still."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self._round: int | None = None
        self.choice: Any = None
        self.wants_covariance = getattr(policy, "wants_covariance", False)

    def __call__(
        self, mean: Array, width: Array, mask: Any, round: int, rng: Any, **joint: Any
    ) -> Any:
        self._round = round if self._round is None else self._round
        self.choice = self._policy(mean, width, mask, self._round, rng, **joint)
        return self.choice


def _optimistic_probabilities(decision: Any, obs: Observation) -> Array:
    """Uniform over the largest mean + bonus, if that is what the decision's propensity says."""
    allowed = np.asarray(obs["action_mask"]).astype(bool)
    score = np.where(allowed, decision.mean + decision.bonus, -np.inf)
    best = score == score[decision.action]
    if score[decision.action] < score.max() or not math.isclose(
        decision.propensity, 1 / best.sum()
    ):
        raise ValueError(
            "policy: the agent does not tell the probability of every arm; give its Decision "
            "`probabilities`, or evaluate an agent with a policy of `vitucb list policies`"
        )
    probabilities: Array = best / best.sum()
    return probabilities
