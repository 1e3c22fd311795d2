"""One agent trained by several processes (ranks), each in an environment of its own.

Every rank holds the whole agent: adapters, head, optimizer, replay, covariance. Between two syncs a
rank chooses arms with what it had at the last sync, and counts its own choices in its covariance,
so that it does not explore the same thing twice. Every `sync_every` rounds all ranks

1. exchange the choices and the rewards since the last sync: features, images, rewards;
2. take back their own choices and count those of all ranks, in order of round, then rank. A is a
   sum, so the merge is exact: A = ridge I + the weighted phi phi' of every choice of every rank;
3. take all rewards into link, replay and feature history, in the same order;
4. step once (`gradient_steps` times) on one batch of N x `batch_size` images split among the ranks,
   with the sum of the gradients in one flat all-reduce, the gradient of the mean loss of the batch;
   the closed-form head is solved by each rank from the last layer of the whole batch;
5. rebuild the covariance together when the history says so.

Hence all ranks agree bit for bit after a sync. What chance the ranks share (adapters, head,
batches, sketch) comes from the run's seed, environment and policy from seed and rank. What stays
apart: the images lately on offer, whose mean feature over all ranks is the centre.

What is exact of the merged covariance: `exact`, `dense` and `diagonal` are that of all choices.
Sketches see all choices in one order, so they equal the sketch of a single process which saw that
order: a linear sketch (`countsketch`) has lost nothing by merging, frequent directions (`low-rank`)
keep their guarantee for the union. Their calibration looks at chosen arms only here.

Ranks must run the same versions on the same kind of machine; a checksum in every exchange tells if
they have parted. Tensors travel as safetensors over gloo, on the CPU.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitucb.agents.context import chosen_image, is_image_context
from vitucb.agents.vit_ucb import ViTUCB
from vitucb.config import RunConfig
from vitucb.experiment.distributed.process_group import Package, Ranks
from vitucb.experiment.distributed.ranks import rank_seed
from vitucb.experiment.distributed.synced_agent import SyncedAgent
from vitucb.learning.feature_history import Chosen
from vitucb.seeding import numpy_generator
from vitucb.types import Agent, Decision, Observation, State


@dataclass(frozen=True, slots=True)
class Rewarded:
    """A reward that arrived.

    Attributes:
        after: Choices this rank had made since the last sync.
        round: Of the choice that earned it, counted over all ranks.
        image: What was chosen, uint8 (H, W, C), or the context of the choice.
        action: Output of the model that scores it.
        reward: Reward.
        error: Reward minus prediction.
    """

    after: int
    round: int
    image: NDArray[np.uint8]
    action: int
    reward: float
    error: float


class DataParallelAgent(SyncedAgent):
    """A `vit-ucb` that is equal on all ranks after every sync.

    Attributes:
        parameters: Those of the agent.
    """

    def __init__(self, agent: Agent, ranks: Ranks, config: RunConfig) -> None:
        """Take over an agent, built with the same seed on every rank.

        Raises:
            ValueError: If it is no `vit-ucb`, or trains by a schedule of its own.
        """
        if not isinstance(agent, ViTUCB):
            raise ValueError(
                f"agent {config.agent.name} cannot train on several ranks; use vit-ucb or "
                "kernel-ucb, or vitucb sweep for independent runs"
            )
        if config.agent.training.update_every != 1:
            raise ValueError(
                f"agent.training.update_every {config.agent.training.update_every} has no use on "
                "several ranks, which train at every sync; leave it 1 and set parallel.sync_every"
            )
        super().__init__(ranks, config)
        self._agent = agent
        self._choices: list[Chosen] = []
        self._rewards: list[Rewarded] = []
        agent.rng = numpy_generator(rank_seed(config.seed, config.parallel), "policy")
        agent.on_choice, agent.trainer.split = self._choices.append, ranks
        agent.history.mean_of_all = ranks.mean
        self._begin_window()

    @property
    def parameters(self) -> dict[str, int]:
        """Counts of adapted, trainable and tracked parameters."""
        return self._agent.parameters

    @property
    def image_passes(self) -> int:
        """Those of this rank."""
        return self._agent.image_passes

    def select_action(self, obs: Observation) -> Decision:
        """Choose with what is known since the last sync; the choice has a number of its own."""
        decision = self._agent.select_action(obs)
        number = self._number(len(self._choices) - 1, self._ranks.rank)
        return dataclasses.replace(decision, round=number)

    def update(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        """Keep the reward for the next sync; no metrics."""
        action = decision.action
        self._rewards.append(
            Rewarded(
                after=len(self._choices),
                round=decision.round,
                image=chosen_image(obs, action),
                action=action if is_image_context(obs) else 0,
                reward=reward,
                error=reward - float(decision.mean[action]),
            )
        )
        return {}

    def _begin_window(self) -> None:
        self._choices.clear()
        self._rewards.clear()
        self._agent.history.mark()
        self._start = self._agent.rounds

    def _number(self, index: int, rank: int) -> int:
        """Number over all ranks of the choice `index` of a rank since the last sync."""
        return self._start + index * self._ranks.size + rank

    def _package(self) -> Package:
        chosen, rewarded = self._choices, self._rewards
        # Of rewards only those of earlier choices: the others are there already.
        images = {f"chosen.{i}": c.image for i, c in enumerate(chosen)}
        images |= {f"rewarded.{r.round}": r.image for r in rewarded if r.round < self._start}
        return {
            "digest": self._digest(),
            "phi": torch.stack([c.phi for c in chosen]) if chosen else torch.zeros(0, 1),
            "weights": torch.tensor([c.weight for c in chosen], dtype=torch.float64),
            "outputs": torch.tensor([c.action for c in chosen], dtype=torch.int64),
            "rewards": torch.tensor([[r.reward, r.error] for r in rewarded], dtype=torch.float64),
            "rewarded": torch.tensor(
                [[r.after, r.round, r.action] for r in rewarded], dtype=torch.int64
            ),
            **{name: torch.tensor(np.array(image)) for name, image in images.items()},
        }

    def _learn(self, packages: Sequence[Package]) -> dict[str, float]:
        """Take in the choices and rewards of all ranks, the same way on each."""
        agent = self._agent
        agent.history.merge(self._choices_of(packages))
        agent.rounds = self._start + sum(len(package["phi"]) for package in packages)
        rewards = self._rewards_of(packages)
        if not rewards:
            return {}
        has_drifted = False
        for item in rewards:
            agent.trainer.link.add_error(item.error)
            slot = agent.trainer.remember(item.image, item.reward, item.action)
            agent.history.rewarded(item.round, slot)
            if agent.detector is not None:
                has_drifted |= agent.detector.add(item.error)
        metrics: dict[str, float] = {}
        if len(agent.trainer.replay) >= self._ranks.size:
            metrics["train/loss"] = agent.trainer.train()
        if agent.detector is not None:
            metrics["drift/reset"] = float(has_drifted)
        if has_drifted:
            agent.trainer.forget_history()
            agent.history.forget(agent.rounds)
        return metrics | agent.history.refresh(agent.rounds) | agent.state_of_knowledge()

    def _choices_of(self, packages: Sequence[Package]) -> list[Chosen]:
        """Choices in order of round, then rank."""
        device = next(self._agent.trainer.model.parameters()).device
        return [
            Chosen(
                round=self._number(i, rank),
                phi=package["phi"][i].to(device),
                weight=float(package["weights"][i]),
                image=package[f"chosen.{i}"].numpy(),
                action=int(package["outputs"][i]),
            )
            for i in range(len(packages[0]["phi"]))
            for rank, package in enumerate(packages)
        ]

    def _rewards_of(self, packages: Sequence[Package]) -> list[Rewarded]:
        """Rewards in order of the round they arrived in, then rank."""
        rewards: list[Rewarded] = []
        for package in packages:
            table = zip(package["rewarded"].tolist(), package["rewards"].tolist(), strict=True)
            for (after, round, action), values in table:
                index = (round - self._start) // self._ranks.size
                name = f"chosen.{index}" if index >= 0 else f"rewarded.{round}"
                image = package[name].numpy()
                rewards.append(Rewarded(after, round, image, action, *values))
        return sorted(rewards, key=lambda item: item.after)

    def _digest(self) -> Tensor:
        """SHA-256 of what must be equal, as of the last sync, uint8 (32,)."""
        digest = hashlib.sha256()
        for parameter in self._agent.trainer.model.parameters():
            if parameter.requires_grad:
                digest.update(parameter.detach().cpu().contiguous().numpy().data)
        noise = self._agent.trainer.link.width_scale
        digest.update(f"{self._start} {noise.hex()}".encode())
        return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)

    def save_adapter(self, folder: Path) -> None:
        """Write the adapters so that `peft.PeftModel.from_pretrained` reads them."""
        self._agent.save_adapter(folder)

    def state_dict(self) -> State:
        """That of the agent, which alone can go on from it.

        Raises:
            RuntimeError: If there were rounds since the last sync.
        """
        if self._choices or self._rewards:
            raise RuntimeError("a data-parallel agent can be saved after a sync only")
        return self._agent.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._agent.load_state_dict(state)
        self._begin_window()
