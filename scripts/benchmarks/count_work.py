"""What a round takes, counted rather than timed: tensor operations and image passes.

The packaged digits, embedded ViT, ten arms. Operations are those that PyTorch dispatches and that
are no views, in whole rounds: choosing, the environment and learning; a median of ten rounds in
which every image has been seen before. A pass is an image that goes through the backbone, or
through what of it follows the first adapter, forward or backward; beside those of the same rounds
stand those of a run from nothing, a mean over its rounds.

    python scripts/benchmarks/count_work.py
    python scripts/benchmarks/count_work.py --only "lin-ucb, an image per arm" --rounds 200
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

import vitucb
from vitucb.agents.baselines.frozen_features import FrozenFeatures
from vitucb.agents.vit_ucb import ViTUCB
from vitucb.cli.bench.contestant import keep_asleep
from vitucb.cli.bench.optimizers import CountOperations
from vitucb.envs.data.datasets import load_dataset
from vitucb.envs.data.image_dataset import ImageDataset
from vitucb.types import Round

_COUNTED = 10
_ALONE: dict[str, Any] = {"experts": ("adapted",)}


@dataclass(frozen=True, slots=True)
class Case:
    """An agent in a game.

    Attributes:
        agent: Its name.
        settings: Its settings.
        has_labels: Whether one image is the context of ten labels, not every arm an image.
        is_asleep: Whether the expert `adapted` is never woken.
    """

    agent: str
    settings: dict[str, Any] = field(default_factory=dict)
    has_labels: bool = False
    is_asleep: bool = False


CASES = {
    "vit-ucb, an image per arm": Case("vit-ucb"),
    "kernel-ucb, an image per arm": Case("kernel-ucb"),
    "lin-ucb, an image per arm": Case("lin-ucb"),
    "adapted alone, an image per arm, exact": Case("vit-ucb", _ALONE),
    "adapted alone, an image per arm, low-rank": Case(
        "vit-ucb", {**_ALONE, "covariance": "low-rank"}
    ),
    "vit-ucb, ten labels, a step after every reward": Case("vit-ucb", has_labels=True),
    "vit-ucb, ten labels, adapted asleep": Case("vit-ucb", has_labels=True, is_asleep=True),
    "lin-ucb, ten labels": Case("lin-ucb", has_labels=True),
    "adapted alone, ten labels, exact": Case("vit-ucb", _ALONE, has_labels=True),
}


class Player:
    """An agent that plays one case, round by round.

    Attributes:
        agent: The agent.
        played: Rounds played.
    """

    def __init__(self, case: Case, dataset: ImageDataset, *, num_arms: int = 10) -> None:
        """Build the agent for images of `dataset`."""
        name = "ImageContext" if case.has_labels else "ImageArms"
        env: gym.Env[Any, Any] = gym.make(
            f"vitucb/{name}-v0", dataset=dataset, num_arms=num_arms, max_episode_steps=10**6
        )
        self.agent: Any = vitucb.make_agent(case.agent, env, seed=0, **case.settings)
        if case.is_asleep:
            keep_asleep(self.agent, "adapted")
        self._rounds: Iterator[Round] = vitucb.run(env, self.agent, seed=0)
        self.played = 0

    def see(self, images: Sequence[np.ndarray[Any, Any]]) -> None:
        """Make what is held of images, so that none is new."""
        frozen = getattr(self.agent, "frozen", getattr(self.agent, "_frozen", None))
        if isinstance(frozen, FrozenFeatures):
            frozen(np.stack(images))
        if isinstance(self.agent, ViTUCB):
            self.agent.trainer.inputs(images)

    def play_to(self, round: int) -> None:
        """Play until so many rounds are over."""
        while self.played < round:
            next(self._rounds)
            self.played += 1

    def operations(self) -> int:
        """Tensor operations of the next rounds, a median."""
        counts = []
        for _ in range(_COUNTED):
            counter = CountOperations()
            with counter:
                self.play_to(self.played + 1)
            counts.append(counter.count)
        return round(statistics.median(counts))


def accustomed(case: Case, num_arms: int = 10) -> Player:
    """A player of 369 digits, the set that settings are tuned on, none of them new."""
    dataset = load_dataset("digits", split="tune")
    player = Player(case, dataset, num_arms=num_arms)
    player.see([dataset.images[i] for i in range(len(dataset.images))])
    return player


def operations_at(case: Case, rounds: Sequence[int], num_arms: int = 10) -> list[int]:
    """Tensor operations of a round after so many rounds."""
    player, found = accustomed(case, num_arms), []
    for number in rounds:
        player.play_to(number)
        found.append(player.operations())
    return found


def row_of(case: Case, at: int, rounds: int) -> list[str]:
    """Operations of a round, passes of the rounds counted, and of a run of its own."""
    player = accustomed(case)
    player.play_to(at)
    before = player.agent.image_passes
    operations = player.operations()
    passes = (player.agent.image_passes - before) / _COUNTED
    whole = Player(case, load_dataset("digits"))
    whole.play_to(rounds)
    return [f"{operations:,}", f"{passes:.1f}", f"{whole.agent.image_passes / rounds:.1f}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--at", type=int, default=200, help="rounds before those counted")
    parser.add_argument("--rounds", type=int, default=1_000, help="rounds of the run from nothing")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    head = f"| a round of | operations | image passes | of a run of {options.rounds:,} rounds |\n"
    sys.stdout.write(f"{head}|---|---|---|---|\n")
    for label in options.only:
        cells = row_of(CASES[label], options.at, options.rounds)
        sys.stdout.write(f"| {' | '.join([label, *cells])} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
