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
from vitucb.types import Agent, Observation, State

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
    from vitucb.experiment import make_agent, make_env

    folder = Path(folder)
    config = load_config(folder / "config.yaml")
    env = make_env(config.env)
    agent = make_agent(config.agent.name, env, seed=config.seed, device=device, config=config.agent)
    agent.load_state_dict(_saved_state(folder))
    return held_still(agent)


def _saved_state(folder: Path) -> State:
    """The agent's state at the end of the run, or at the last checkpoint of an unfinished one."""
    from vitucb.checkpoint import load_state
    from vitucb.resume import open_snapshots

    if (folder / "checkpoint" / "state.json").is_file():
        return load_state(folder / "checkpoint")
    newest = open_snapshots(folder).load_newest(lambda state: None)
    if newest is None:
        raise ValueError(f"policy {folder}: no checkpoint in it; let the run finish")
    state: State = newest["agent"]
    return state


def held_still(agent: Agent) -> PolicyFunction:
    """The present policy of `agent` as a function of the observation alone.

    An agent with a method `probabilities(obs)`, float64 (K,), is asked; it must change nothing. Any
    other agent chooses, and gets its state back after every choice, which takes as long as its
    state is large; the probabilities are those of its decision, or of its policy's choice.

    Raises:
        ValueError: On a call, if the agent does not tell the probabilities of its arms.
    """
    ask: PolicyFunction | None = getattr(agent, "probabilities", None)
    return ask if callable(ask) else _HeldStill(agent)


class _HeldStill:
    """Lets an agent choose, and undoes what choosing does to it."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        self._state = copy.deepcopy(agent.state_dict())
        self._policy: _Watched | None = None
        if callable(getattr(agent, "_policy", None)):
            self._policy = _Watched(agent._policy)
            agent._policy = self._policy

    def __call__(self, obs: Observation) -> Array:
        decision = self._agent.select_action(obs)
        self._agent.load_state_dict(copy.deepcopy(self._state))
        told = getattr(decision, "probabilities", None)
        if told is None and self._policy is not None:
            told = getattr(self._policy.choice, "probabilities", None)
        if told is None:
            told = _optimistic_probabilities(decision, obs)
        return np.asarray(told, np.float64)


class _Watched:
    """A policy that remembers its choice."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self.choice: Any = None
        self.wants_covariance = getattr(policy, "wants_covariance", False)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        self.choice = self._policy(*arguments, **keywords)
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
