"""The seam of the loop that plays a run, where several processes may come together."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from vitucb.experiment.run_folder import RunFolder
from vitucb.types import Agent, Round


class Wishes(NamedTuple):
    """What is to be done after a round: write a checkpoint, and stop."""

    save: bool
    stop: bool


class LoopHook:
    """What the loop asks beside agent and environment; this one is of a process on its own."""

    def begin_run(self, agent: Agent, folder: RunFolder) -> Agent:
        """The agent to play with; `folder` is locked, and nothing has been read from it yet."""
        return agent

    def end_round(self, round: Round, wishes: Callable[[], Wishes], *, is_last: bool) -> Round:
        """The round as it is to be recorded.

        Args:
            round: As it was played.
            wishes: What this process would do after it.
            is_last: Whether the episode is over.
        """
        return round

    def agreed(self, wishes: Callable[[], Wishes]) -> Wishes:
        """What to do now that the round is recorded."""
        return wishes()

    def end_run(self) -> None:
        """The run is finished; its checkpoints are still there."""
