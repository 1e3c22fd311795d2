"""Slates from any agent: it chooses one arm for each position, from those that are left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitucb.envs.wrappers.base import require_integer
from vitucb.envs.wrappers.slate_arms import checked_examination, worth_in_last_position
from vitucb.types import Agent, Decision, Observation, State, require_usable

AnyDecision = TypeVar("AnyDecision", bound=Decision, covariant=True)


@dataclass(frozen=True, slots=True)
class Slate(Generic[AnyDecision]):
    """The arms of m positions, first position first.

    Attributes:
        decisions: One for each position; its propensity is that of the arm given those before it.
    """

    decisions: tuple[AnyDecision, ...]

    @property
    def actions(self) -> NDArray[np.int64]:
        """The arms, int64 (m,)."""
        return np.array([decision.action for decision in self.decisions], np.int64)

    @property
    def propensity(self) -> float:
        """Probability of these arms in this order: the product of the positions'."""
        return math.prod(decision.propensity for decision in self.decisions)


class SlateAgent:
    """Fills the positions of a slate one after the other with the choices of an agent.

    Every choice counts before the next is made, as if its reward were still to come, so that a
    slate is not m times the same guess. The reward of every position is an ordinary reward of its
    decision. With one slot this is the agent itself; with more it does in `SlateArms` what the
    agent does in `SlotBySlot`.

    Example:
        >>> import gymnasium as gym
        >>> import vitucb
        >>> one_arm = gym.make("vitucb/ImageArms-v0", num_arms=5)
        >>> agent = SlateAgent(vitucb.make_agent("lin-ucb", one_arm), slots=3)
        >>> env = vitucb.envs.SlateArms(one_arm, slots=3)
        >>> obs, _ = env.reset(seed=0)
        >>> slate = agent.select_slate(obs)
        >>> _, _, _, _, info = env.step(slate.actions)
        >>> len(agent.update_slate(obs, slate, info["rewards"]))
        3

    Attributes:
        agent: The agent that chooses.
        slots: Number of positions m.
        examination: Probability that each position is looked at, float64 (m,): known beforehand, or
            estimated from a log by `vitucb.evaluation.slate_log.estimated_examination`.
    """

    def __init__(
        self, agent: Agent, slots: int, examination: Sequence[float] | None = None
    ) -> None:
        """Let `agent` choose.

        Args:
            agent: An agent for one arm a round.
            slots: Number of positions m, at least 1.
            examination: As the attribute; all 1 if None.

        Raises:
            ValueError: If there are no slots, or the probabilities are not usable.
        """
        self.agent, self.slots = agent, require_integer("slots", slots, 1)
        self.examination = checked_examination(examination, self.slots)

    def select_slate(self, obs: Observation) -> Slate[Decision]:
        """Choose an arm for every position.

        Raises:
            ValueError: If fewer arms are on offer than there are positions.
        """
        chosen = chosen_slate(self.agent, obs, self.slots)
        return Slate(tuple(decision for _, decision in chosen))

    def update_slate(
        self, obs: Observation, slate: Slate[Decision], rewards: ArrayLike
    ) -> list[dict[str, float]]:
        """Learn from the rewards of the positions of an earlier slate.

        Args:
            obs: What it was chosen from.
            slate: The slate.
            rewards: What every position paid, (m,). What is learnt of it is free of the position,
                see `worth_in_last_position`.

        Returns:
            The metrics of every update.

        Raises:
            ValueError: If there is not a reward for each.
            UnusableRewardError: If one is not finite or above 1e30 in size; then none is learnt.
        """
        paid = np.asarray(rewards, np.float64)
        if paid.shape != (self.slots,):
            raise ValueError(f"rewards have shape {paid.shape}; give {self.slots}, one a position")
        require_usable(*paid.tolist())
        reports = []
        for position, (decision, reward) in enumerate(
            zip(slate.decisions, paid.tolist(), strict=True)
        ):
            seen = without(obs, slate.actions[:position].tolist())
            worth = worth_in_last_position(reward, position, self.examination)
            reports.append(self.agent.update(seen, decision, worth))
        return reports

    def state_dict(self) -> State:
        """That of the agent."""
        return self.agent.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self.agent.load_state_dict(state)


def chosen_slate(agent: Agent, obs: Observation, slots: int) -> list[tuple[Observation, Decision]]:
    """The choice of every position, with what was left for it.

    Raises:
        ValueError: If fewer arms are on offer than there are positions.
    """
    check_offer(obs, slots)
    chosen: list[tuple[Observation, Decision]] = []
    for _ in range(slots):
        left = without(obs, [decision.action for _, decision in chosen])
        chosen.append((left, agent.select_action(left)))
    return chosen


def without(obs: Observation, shown: Sequence[int]) -> Observation:
    """The observation with the arms that are shown already masked."""
    if not shown:
        return obs
    mask = np.array(obs["action_mask"])
    mask[list(shown)] = 0
    return {**obs, "action_mask": mask}


def check_offer(obs: Observation, slots: int) -> None:
    """Refuse a round of too few arms, and slates of none.

    Raises:
        ValueError: If there are fewer than slots, or no slots.
    """
    offered = int(np.count_nonzero(obs["action_mask"]))
    require_integer("slots", slots, 1)
    if offered < slots:
        raise ValueError(f"slots {slots}: {offered} arms are on offer; give at most {offered}")
