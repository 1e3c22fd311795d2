"""How several processes that train one agent play in step: what they agree on, and when."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

import torch

from vitucb.agents.expert_agent import ExpertAgent
from vitucb.config import ParallelConfig, RunConfig
from vitucb.experiment.distributed.data_parallel import DataParallelAgent
from vitucb.experiment.distributed.expert_ranks import ExpertRanks
from vitucb.experiment.distributed.process_group import Ranks, joined
from vitucb.experiment.loop_hook import LoopHook, Wishes
from vitucb.experiment.run_folder import RunFolder
from vitucb.types import Agent, Round


class DataParallelHook(LoopHook):
    """Makes the agent one of all ranks, which save and stop together, after a sync."""

    def __init__(self, ranks: Ranks) -> None:
        """Play as one of `ranks`."""
        self._ranks = ranks
        self._agreed = Wishes(save=False, stop=False)

    def begin_run(self, agent: Agent, folder: RunFolder) -> Agent:
        """The agent of all ranks, which will go on from a checkpoint that they all have."""
        self._agent = of_all_ranks(agent, self._ranks, folder.config)
        _keep_common_checkpoints(folder, self._ranks)
        return self._agent

    def end_round(self, round: Round, wishes: Callable[[], Wishes], *, is_last: bool) -> Round:
        """Sync if it is due; its metrics and its time are the round's."""
        wished, begun = wishes(), time.perf_counter()
        metrics, self._agreed = self._agent.sync_when_due(round.index + 1, wished, is_last=is_last)
        return dataclasses.replace(
            round,
            metrics={**round.metrics, **metrics},
            seconds=round.seconds + time.perf_counter() - begun,
        )

    def agreed(self, wishes: Callable[[], Wishes]) -> Wishes:
        """What any rank wished for at the sync."""
        return self._agreed

    def end_run(self) -> None:
        """Wait for the others: until the last has finished, all can go on from checkpoints."""
        self._ranks.wait()


def of_all_ranks(agent: Agent, ranks: Ranks, config: RunConfig) -> ExpertRanks | DataParallelAgent:
    """`agent`, built with the same seed on every rank, as one of all ranks.

    Raises:
        ValueError: If it cannot be.
    """
    if isinstance(agent, ExpertAgent):
        return ExpertRanks(agent, ranks, config)
    return DataParallelAgent(agent, ranks, config)


@contextlib.contextmanager
def joined_hook(config: ParallelConfig) -> Iterator[LoopHook]:
    """The hook of one of the processes that torchrun started.

    Raises:
        RankLostError: If the others do not come.
    """
    with joined(config) as ranks:
        yield DataParallelHook(ranks)


def _keep_common_checkpoints(folder: RunFolder, ranks: Ranks) -> None:
    """Drop the checkpoints of this rank's run folder that are newer than any that all ranks have.

    A rank that had finished while another had not is unfinished again.
    """
    if folder.config.overwrite:
        return
    checkpoints = folder.checkpoints
    usable = []
    for rounds in checkpoints.rounds:
        with contextlib.suppress(ValueError):
            if folder.why_unusable(checkpoints.load(rounds)) is None:
                usable.append(rounds)
    packages = ranks.exchange({"rounds": torch.tensor(usable, dtype=torch.int64)})
    common = set.intersection(*(set(package["rounds"].tolist()) for package in packages))
    last = max(common, default=0)
    checkpoints.load_newest(
        lambda state: None if state["rounds"] == last else "another rank has none that goes with it"
    )
    (folder.path / "summary.json").unlink(missing_ok=True)
