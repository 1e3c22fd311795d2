"""An agent that plays rounds of the packaged digits while its time is taken."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file

from vitucb.agents.baselines.frozen_features import FrozenFeatures
from vitucb.agents.expert_agent import ExpertAgent
from vitucb.agents.factory import make_agent
from vitucb.agents.vit_ucb import ViTUCB
from vitucb.assets import EMBEDDED_BACKBONES
from vitucb.cli.bench.clock import clock_of, is_cpu
from vitucb.cli.bench.phases import NetworkTime, Phases
from vitucb.cli.bench.scoring import ARMS
from vitucb.envs.data.datasets import load_dataset
from vitucb.envs.data.image_dataset import ImageDataset
from vitucb.experiment.episode import run
from vitucb.learning.experts.adapted.expert import AdaptedExpert
from vitucb.types import Agent, Round

NEVER = 10**9
_BATCH = 16


class Contestant:
    """An agent in an environment of its own, played round by round."""

    def __init__(
        self,
        name: str,
        settings: dict[str, Any],
        backbone: dict[str, Any],
        *,
        has_labels: bool = False,
        num_images: int | None = None,
        device: str = "cpu",
    ) -> None:
        """Build the agent.

        Args:
            name: Of the agent.
            settings: Its settings.
            backbone: Its settings of the model.
            has_labels: Whether one image is the context of ten labels, not every arm an image.
            num_images: How many images there are, the first ones; all 369 if None.
            device: Where the agent computes; its phases are told apart on the processor alone.
        """
        self._clock = clock_of(device)
        dataset = first_images(load_dataset("digits", split="tune"), num_images)
        self._env = (
            gym.make("vitucb/ImageContext-v0", dataset=dataset, max_episode_steps=10**6)
            if has_labels
            else gym.make(
                "vitucb/ImageArms-v0", dataset=dataset, num_arms=ARMS, max_episode_steps=10**6
            )
        )
        self.agent = make_agent(name, self._env, seed=0, device=device, **backbone, **settings)
        self.phases = Phases()
        images = [dataset.images[i] for i in range(len(dataset.images))]
        frozen = getattr(self.agent, "frozen", getattr(self.agent, "_frozen", None))
        if isinstance(frozen, FrozenFeatures):
            frozen(np.stack(images))
        if isinstance(self.agent, ExpertAgent):
            show_copies(self.agent, images)
        if isinstance(self.agent, ViTUCB):
            show_history(self.agent, images)
            if is_cpu(device):
                watch_agent(self.phases, self.agent)
        self._rounds: Iterator[Round] = run(self._env, self.agent, seed=0)
        self.seconds: list[float] = []
        self.network = 0.0

    def play(self) -> None:
        """Play a round, and count its time."""
        start = self._clock()
        next(self._rounds)
        self.seconds.append(self._clock() - start)

    def skip(self, rounds: int) -> None:
        """Play rounds whose time does not count."""
        for _ in range(rounds):
            next(self._rounds)

    def forget_times(self) -> None:
        """What was counted so far was for warming up."""
        self.seconds.clear()
        self.phases.seconds.clear()

    def measure_network(self, rounds: int = 3) -> None:
        """Play rounds and take the shortest time in the operations of the network."""
        kept = dict(self.phases.seconds)
        times = []
        for _ in range(rounds):
            with NetworkTime(self.phases) as network:
                next(self._rounds)
            times.append(network.seconds)
        self.network = min(times)
        self.phases.seconds = defaultdict(float, kept)


def first_images(dataset: ImageDataset, count: int | None) -> ImageDataset:
    """The first `count` images of a dataset with classes, which must hold every class; all if None.

    Raises:
        ValueError: If a class is not among them.
    """
    assert dataset.labels is not None
    kept = np.arange(len(dataset.images))[:count]
    return dataclasses.replace(dataset, images=dataset.images[kept], labels=dataset.labels[kept])


def watch_agent(phases: Phases, agent: ViTUCB) -> None:
    """Count the time of every phase of a round of `agent`."""
    phases.watch(agent.history, {"score": "scoring", "refresh": "rebuild"})
    phases.watch(agent.trainer, {"train": "training"})
    scoring = ("quad_form", "width", "width_array", "width_array_with", "cov")
    phases.watch(agent.covariance, dict.fromkeys((*scoring, "update"), "covariance"))


def show_copies(agent: ExpertAgent, images: list[NDArray[np.uint8]]) -> None:
    """Every image is seen once by the expert `adapted`, and every copy of it to train on."""
    for expert in agent.experts.values():
        if isinstance(expert, AdaptedExpert):
            for copy in range(expert.network.num_copies):
                expert.network.tokens(images, np.full(len(images), copy))


def show_history(agent: ViTUCB, images: list[NDArray[np.uint8]]) -> None:
    """Every image is seen once, and a batch of them has been rewarded."""
    agent.trainer.inputs(images)
    for i, image in enumerate(images[:_BATCH]):
        slot = agent.trainer.remember(image, float(i % 2))
        agent.history.rewarded(i - _BATCH, slot)


def keep_asleep(agent: Agent, name: str, rewards: int = NEVER) -> None:
    """The expert `name`, asleep from the beginning, is woken after `rewards` more, or never."""
    assert isinstance(agent, ExpertAgent)
    assert name in agent.weights.asleep
    state = agent.weights.state_dict()
    state["wakes_in"][agent.weights.names.index(name)] = rewards
    agent.weights.load_state_dict(state)


def model_settings(backbone: str, img_size: int | None, folder: Path) -> dict[str, Any]:
    """Settings of an agent for a backbone with random weights, kept in a file in `folder`."""
    if backbone in EMBEDDED_BACKBONES:
        return {"backbone": backbone}
    import timm

    file = folder / "weights.safetensors"
    model = timm.create_model(backbone, num_classes=0, img_size=img_size)
    save_file(model.state_dict(), file)
    return {"backbone": backbone, "img_size": img_size, "weights": str(file)}
