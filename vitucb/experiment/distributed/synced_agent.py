"""What agents trained by several processes (ranks) have in common: when they sync, and on what.

Between two syncs a rank chooses with what all knew at the last one. At a sync the ranks exchange
packages and learn from all of them in the same way, so that they agree bit for bit afterwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from vitucb.config import RunConfig
from vitucb.experiment.distributed.process_group import Package, Ranks
from vitucb.experiment.loop_hook import Wishes


class SyncedAgent(ABC):
    """An agent that is equal on all ranks after every sync."""

    def __init__(self, ranks: Ranks, config: RunConfig) -> None:
        """Be one of `ranks`."""
        self._ranks, self._every = ranks, config.parallel.sync_every
        self._wants_save = False

    def sync_when_due(
        self, played: int, wishes: Wishes, *, is_last: bool
    ) -> tuple[dict[str, float], Wishes]:
        """Sync when due.

        Args:
            played: Rounds played so far.
            wishes: Whether this rank would write a checkpoint, which is remembered until the next
                sync, and whether it was asked to stop.
            is_last: Whether the episode is over.

        Returns:
            Metrics, and what to do now: what any rank wants, all do, and only after a sync.

        Raises:
            ValueError: If the ranks have not played equally many rounds.
            RuntimeError: If the ranks have parted.
            RankLostError: If another rank does not answer.
        """
        self._wants_save |= wishes.save
        if played % self._every and not is_last:
            return {}, Wishes(save=False, stop=False)
        told = torch.tensor([self._wants_save, wishes.stop])
        packages = self._ranks.exchange({**self._package(), "wishes": told})
        check_equal(packages)
        of_any = torch.stack([package["wishes"] for package in packages]).any(dim=0)
        metrics = self._learn(packages)
        self._wants_save = False
        self._begin_window()
        return metrics, Wishes(*of_any.tolist())

    @abstractmethod
    def _package(self) -> Package:
        """What happened here since the last sync, and `digest` and `outputs`: see `check_equal`."""

    @abstractmethod
    def _learn(self, packages: Sequence[Package]) -> dict[str, float]:
        """Take in what happened on all ranks, the same way on each; returns metrics."""

    @abstractmethod
    def _begin_window(self) -> None:
        """Start anew: nothing has happened since the last sync."""


def check_equal(packages: Sequence[Package]) -> None:
    """See that ranks played as many rounds, and had the same model at the last sync.

    Args:
        packages: With `outputs`, one row a choice, and `digest`, a checksum.

    Raises:
        ValueError: If the numbers of choices differ.
        RuntimeError: If the checksums do.
    """
    counts = [len(package["outputs"]) for package in packages]
    if len(set(counts)) > 1:
        raise ValueError(
            f"the ranks played {counts} rounds since the last sync; their environments must have "
            "episodes of one length, set num_rounds no longer than the shortest"
        )
    if any(not torch.equal(package["digest"], packages[0]["digest"]) for package in packages):
        raise RuntimeError(
            "the ranks no longer agree; run all of them with the same versions, number of threads "
            "and kind of machine"
        )
