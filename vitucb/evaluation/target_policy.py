"""The policy of a saved agent, held still: a function from an observation to probabilities."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitucb.types import Agent, Observation

Array: TypeAlias = NDArray[np.float64]
PolicyFunction: TypeAlias = Callable[[Observation], Array]
"""Probability of every arm, float64 (K,), of an observation."""


@dataclass(frozen=True, slots=True)
class SavedPolicy:
    """The policy of a saved agent: a function from an observation to probabilities (K,).

    Attributes:
        name: Where it came from; error messages name it.
        ask: The function, for observations that fit.
        why_unfit: What is wrong with an observation of another kind; None if it fits.
        fixed_arms: Number of the arms that the agent knows by their number; None if it looks at an
            image of each.
        action_names: Names of these arms, where the agent knows them, else empty.
    """

    name: str
    ask: PolicyFunction
    why_unfit: Callable[[Observation], str | None]
    fixed_arms: int | None
    action_names: tuple[str, ...]

    def __call__(self, obs: Observation) -> Array:
        """Probability of every arm, float64 (K,).

        Raises:
            ValueError: If the agent was made for observations of another kind.
        """
        if problem := self.why_unfit(obs):
            raise ValueError(f"policy {self.name}: {problem}")
        return self.ask(obs)


def load_policy(folder: str | Path, *, device: str = "cpu") -> SavedPolicy:
    """The policy of a saved agent, or of a run as far as it went, held still.

    Args:
        folder: What was given to an agent's `save`; or a run folder, finished or not.
        device: Torch device.

    Returns:
        A function from an observation to the probability of every arm.

    Raises:
        ValueError: If the folder is neither, a file is missing or damaged, or the agent cannot be
            built; on a call, if the agent was made for observations of another kind.
    """
    from vitucb.serving.load import load_agent

    deployed = load_agent(folder, device=device)
    return SavedPolicy(
        str(folder),
        held_still(deployed.agent),
        deployed.why_unfit,
        deployed.fixed_arms,
        deployed.blueprint.action_names,
    )


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
