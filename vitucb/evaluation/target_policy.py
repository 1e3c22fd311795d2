"""The policy of a saved agent, frozen: a function from an observation to probabilities."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from vitucb.policies.choice import Array
from vitucb.types import Agent, Decision, Observation, TellsProbabilities

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
        looks_at_images: Whether it looks at images, rather than at numbers of arms only.
    """

    name: str
    ask: PolicyFunction
    why_unfit: Callable[[Observation], str | None]
    fixed_arms: int | None
    action_names: tuple[str, ...]
    looks_at_images: bool = True

    def __call__(self, obs: Observation) -> Array:
        """Probability of every arm, float64 (K,).

        Raises:
            ValueError: If the agent was made for observations of another kind.
        """
        if problem := self.why_unfit(obs):
            raise ValueError(f"policy {self.name}: {problem}")
        return self.ask(obs)


def load_policy(
    folder: str | Path, *, device: str = "cpu", trust: Sequence[str] = ()
) -> SavedPolicy:
    """The policy of a saved agent, or of a run as far as it went, frozen.

    Args:
        folder: What was given to an agent's `save`; or a run folder, finished or not.
        device: Torch device.
        trust: Packages or modules that names in a folder may refer to; see `vitucb.load_agent`.

    Returns:
        A function from an observation to the probability of every arm.

    Raises:
        ValueError: If the folder is neither, a file is missing or damaged, or the agent cannot be
            built; on a call, if the agent was made for observations of another kind.
    """
    from vitucb.serving.load import load_agent

    deployed = load_agent(folder, device=device, trust=trust)
    return SavedPolicy(
        str(folder),
        frozen_policy(deployed.agent),
        deployed.why_unfit,
        deployed.fixed_arms,
        deployed.blueprint.action_names,
        deployed.looks_at_images,
    )


def frozen_policy(agent: Agent) -> PolicyFunction:
    """The present policy of `agent` as a function of the observation alone.

    An agent that is a `vitucb.types.TellsProbabilities` is asked. Any other agent chooses, and gets
    its state back after every choice, which takes as long as its state is large; the probabilities
    are those of its decision, or uniform over the largest mean + bonus.

    Raises:
        ValueError: On a call, if the agent does not tell the probabilities of its arms.
    """
    if isinstance(agent, TellsProbabilities):
        return agent.probabilities
    state = copy.deepcopy(agent.state_dict())

    def ask(obs: Observation) -> Array:
        decision = agent.select_action(obs)
        agent.load_state_dict(copy.deepcopy(state))
        told = getattr(decision, "probabilities", None)
        told = _optimistic_probabilities(decision, obs) if told is None else told
        return np.asarray(told, np.float64)

    return ask


def _optimistic_probabilities(decision: Decision, obs: Observation) -> Array:
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
