"""What a deployed agent answers: decisions with an id, receipts of rewards, counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vitucb.types import Decision

ReceiptOutcome = Literal["learnt", "answered", "forgotten", "unknown", "refused"]


@dataclass(frozen=True, slots=True, repr=False)
class NumberedDecision(Decision):
    """A decision with the id by which its reward is reported; `phi` is None.

    Attributes:
        id: Never given out twice, not even by two copies of one agent.
    """

    id: str

    def __repr__(self) -> str:
        return f"NumberedDecision({self.id!r}: {self._told()})"


def decision_id(given: object) -> str:
    """The id that is given, alone or as a decision's.

    Raises:
        TypeError: If it is neither.
    """
    name = getattr(given, "id", given)
    if not isinstance(name, str):
        raise TypeError(f"{given!r} has no id; give a decision of DeployedAgent.act, or its id")
    return name


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a reward.

    Attributes:
        decision_id: Of the decision it was for.
        outcome: `learnt`; else it changed nothing: the decision was `answered` before, was
            `forgotten` because too many waited, is `unknown`, or the reward was `refused` and the
            decision waits on.
        reason: Why it was not learnt, a sentence; empty if it was.
        metrics: What the agent reported of its update.
    """

    decision_id: str
    outcome: ReceiptOutcome
    reason: str = ""
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def is_learnt(self) -> bool:
        """Whether the agent learnt from it."""
        return self.outcome == "learnt"


@dataclass(frozen=True, slots=True)
class Counts:
    """What happened since the agent was first deployed; decided = learnt + waiting + forgotten.

    Attributes:
        decided: Decisions made.
        learnt: Rewards learnt.
        waiting: Decisions without a reward so far.
        forgotten: Decisions dropped because more than `max_unanswered` waited.
        not_learnt: Rewards that came twice, too late, for unknown ids, or were refused.
        refused: Calls that brought what cannot be used: images or masks that do not fit, rewards
            that are no number or out of range.
    """

    decided: int
    learnt: int
    waiting: int
    forgotten: int
    not_learnt: int
    refused: int = 0
