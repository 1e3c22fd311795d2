"""An agent with experts, trained by several processes (ranks), each in an environment of its own.

Every rank holds the whole agent. Between two syncs it chooses with what all knew at the last one.
Every `sync_every` rounds all ranks exchange what they were offered, what they chose, what the
experts expected, and the rewards that came; then each counts all choices in order of round, then
rank, and learns from all rewards in the order of their arrival, then rank. So all ranks agree bit
for bit after a sync, on the agent of a single process that made these choices as one batch.

The network of `adapted` takes each of its steps on a batch split among the ranks, with the sum of
their gradients. The models of frozen features are learnt by every rank as a whole: an update costs
them less than sending it would. Features travel with the images, so none is computed twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vitucb.agents.expert_agent import ExpertAgent
from vitucb.config import RunConfig
from vitucb.experiment.distributed.process_group import Package, Ranks
from vitucb.experiment.distributed.ranks import rank_seed
from vitucb.experiment.distributed.synced_agent import SyncedAgent
from vitucb.learning.experts.adapted.expert import AdaptedExpert
from vitucb.learning.experts.expert import Offer
from vitucb.seeding import numpy_generator
from vitucb.types import Decision, Observation, State


@dataclass(frozen=True, slots=True)
class _Made:
    """A choice: what was offered, which arm, and what each expert expected of it, float64 (E,)."""

    offer: Offer
    action: int
    means: Tensor


@dataclass(frozen=True, slots=True)
class _Arrived:
    """A reward: after how many choices since the last sync, of which round, how much."""

    after: int
    round: int
    reward: float
    made: _Made


class ExpertRanks(SyncedAgent):
    """An agent with experts that is equal on all ranks after every sync.

    Attributes:
        parameters: Those of the agent.
    """

    def __init__(self, agent: ExpertAgent, ranks: Ranks, config: RunConfig) -> None:
        """Take over an agent, built with the same seed on every rank."""
        super().__init__(ranks, config)
        self._agent = agent
        self._made: list[_Made] = []
        self._arrived: list[_Arrived] = []
        self._told = ""
        agent.rng = numpy_generator(rank_seed(config.seed, config.parallel), "policy")
        agent.frozen.mean_of_all = ranks.mean
        for expert in agent.experts.values():
            if isinstance(expert, AdaptedExpert):
                expert.network.split = ranks
        self._begin_window()

    @property
    def parameters(self) -> dict[str, int]:
        """Counts that the experts tell."""
        return self._agent.parameters

    @property
    def image_passes(self) -> int:
        """Those of this rank."""
        return self._agent.image_passes

    def select_action(self, obs: Observation) -> Decision:
        """Choose with what is known since the last sync; the choice has a number of its own."""
        decision, offer = self._agent.propose(obs)
        number = self._number(len(self._made), self._ranks.rank)
        assert decision.phi is not None
        self._made.append(_Made(offer, decision.action, decision.phi))
        return dataclasses.replace(decision, round=number)

    def update(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        """Keep the reward for the next sync; no metrics."""
        made = self._made_in(decision.round) or self._look_again(obs, decision)
        self._arrived.append(_Arrived(len(self._made), decision.round, reward, made))
        return {}

    def _made_in(self, round: int) -> _Made | None:
        """The choice of this rank with that number; None if it was made before the last sync."""
        index = (round - self._start) // self._ranks.size
        return self._made[index] if index >= 0 else None

    def _look_again(self, obs: Observation, decision: Decision) -> _Made:
        assert decision.phi is not None
        return _Made(self._agent.offer(obs), decision.action, decision.phi)

    def _begin_window(self) -> None:
        self._made.clear()
        self._arrived.clear()
        self._start = self._agent.rounds

    def _number(self, index: int, rank: int) -> int:
        """Number over all ranks of the choice `index` of a rank since the last sync."""
        return self._start + index * self._ranks.size + rank

    def _package(self) -> Package:
        late = [item.made for item in self._arrived if item.round < self._start]
        return {
            "digest": self._digest(),
            **_packed("", self._made),
            **_packed("late.", late),
            "rewards": torch.tensor([item.reward for item in self._arrived], dtype=torch.float64),
            "rewarded": torch.tensor(
                [[item.after, item.round] for item in self._arrived], dtype=torch.int64
            ),
        }

    def _learn(self, packages: Sequence[Package]) -> dict[str, float]:
        """Count the choices and learn from the rewards of all ranks, the same way on each."""
        num_arms = self._made[0].offer.num_arms if self._made else 0
        made = [_unpacked("", package, num_arms) for package in packages]
        for together in zip(*made, strict=True):
            for one in together:
                self._agent.count(one.offer, one.action)
        metrics: dict[str, float] = {}
        for item in self._arrivals(packages, made, num_arms):
            metrics |= self._agent.learn(
                item.made.offer, item.made.action, item.reward, item.round, item.made.means.tolist()
            )
        self._told = repr(sorted(metrics.items()))
        return metrics

    def _arrivals(
        self, packages: Sequence[Package], made: Sequence[Sequence[_Made]], num_arms: int
    ) -> list[_Arrived]:
        """Rewards in order of the round they arrived in, then rank."""
        arrived: list[_Arrived] = []
        for package, own in zip(packages, made, strict=True):
            late = iter(_unpacked("late.", package, num_arms))
            table = zip(package["rewarded"].tolist(), package["rewards"].tolist(), strict=True)
            for (after, round), reward in table:
                index = (round - self._start) // self._ranks.size
                source = own[index] if index >= 0 else next(late)
                arrived.append(_Arrived(after, round, reward, source))
        return sorted(arrived, key=lambda item: item.after)

    def _digest(self) -> Tensor:
        """SHA-256 of what must be equal, as of the last sync, uint8 (32,)."""
        digest = hashlib.sha256(f"{self._start} {self._told}".encode()).digest()
        return torch.frombuffer(bytearray(digest), dtype=torch.uint8)

    def save_adapter(self, folder: Path) -> None:
        """Write the adapters acted on, if there are any."""
        self._agent.save_adapter(folder)

    def state_dict(self) -> State:
        """That of the agent, which alone can go on from it.

        Raises:
            RuntimeError: If there were rounds since the last sync.
        """
        if self._made or self._arrived:
            raise RuntimeError("an agent of several ranks can be saved after a sync only")
        return self._agent.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._agent.load_state_dict(state)
        self._told = ""
        self._begin_window()


def _packed(prefix: str, made: Sequence[_Made]) -> Package:
    """Choices as tensors: images, features, actions and means, one row a choice."""
    if not made:
        return {f"{prefix}outputs": torch.zeros(0, dtype=torch.int64)}
    ids = [m.offer.context for m in made if m.offer.context is not None]
    context = {f"{prefix}context": torch.from_numpy(np.stack(ids))} if ids else {}
    return context | {
        f"{prefix}images": torch.stack([torch.from_numpy(m.offer.images) for m in made]),
        f"{prefix}features": torch.stack([m.offer.features for m in made]),
        f"{prefix}outputs": torch.tensor([m.action for m in made]),
        f"{prefix}means": torch.stack([m.means for m in made]),
    }


def _unpacked(prefix: str, package: Package, num_arms: int) -> list[_Made]:
    """Inverse of `_packed`; every rank has as many arms."""
    ids = package.get(f"{prefix}context")
    return [
        _Made(
            Offer(
                package[f"{prefix}images"][i].numpy(),
                package[f"{prefix}features"][i],
                num_arms,
                None if ids is None else ids[i].numpy(),
            ),
            int(action),
            package[f"{prefix}means"][i],
        )
        for i, action in enumerate(package[f"{prefix}outputs"])
    ]
