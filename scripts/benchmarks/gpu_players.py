"""Agents on a device, played round by round, for `on_a_gpu.py`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from time_budget import Budget

import vitucb
from vitucb.cli.bench.clock import clock_of
from vitucb.envs.data.datasets import load_dataset
from vitucb.envs.data.image_dataset import ImageDataset
from vitucb.types import Agent, Round


@dataclass(frozen=True, slots=True)
class Device:
    """What is measured.

    Attributes:
        name: Torch device.
        prepare: Called in every process before anything is made there, for a device that PyTorch
            has not got of itself; can be pickled.
        take_waits: Times that the host waited for the device since the last call; None for the way
            of CUDA, and where nothing counts them.
    """

    name: str
    prepare: Callable[[], None] | None = None
    take_waits: Callable[[], int] | None = None

    @property
    def is_cuda(self) -> bool:
        """Whether it is CUDA's."""
        return torch.device(self.name).type == "cuda"


@dataclass(frozen=True, slots=True)
class Contestant:
    """An agent and what it plays.

    Attributes:
        agent: Its name.
        has_labels: Whether one image is the context of K labels, not every arm an image.
        is_alone: Whether the network that is trained predicts without other experts.
        warm_up: Rounds before what is measured.
    """

    agent: str
    has_labels: bool = False
    is_alone: bool = False
    warm_up: int = 30

    def make(self, arms: int, backbone: dict[str, Any], device: str) -> Player:
        """The agent with K = `arms` on `device`, before its first round."""
        env = make_env(arms, has_labels=self.has_labels)
        settings = {**backbone, **({"experts": ("adapted",)} if self.is_alone else {})}
        agent = vitucb.make_agent(self.agent, env, seed=0, device=device, **settings)
        return Player(env, agent, device)


_IMAGES = 100
# `adapted` wakes after about a hundred rewards, and trains after every one from then on.
CONTESTANTS = {
    "vit-ucb, an image per arm": Contestant("vit-ucb"),
    "vit-ucb, labels": Contestant("vit-ucb", has_labels=True, warm_up=100),
    "adapted alone, an image per arm": Contestant("vit-ucb", is_alone=True),
    "adapted alone, labels": Contestant("vit-ucb", has_labels=True, is_alone=True),
    "kernel-ucb": Contestant("kernel-ucb"),
    "lin-ucb": Contestant("lin-ucb"),
}


class Player:
    """An agent in an environment of its own."""

    def __init__(self, env: gym.Env[Any, Any], agent: Agent, device: str) -> None:
        """Begin nothing yet."""
        self._rounds: Iterator[Round] = vitucb.run(env, agent, seed=0)
        self._clock = clock_of(device)

    def round(self) -> Round:
        """Play a round."""
        return next(self._rounds)

    def seconds(self, rounds: int, budget: Budget) -> list[float]:
        """Seconds of so many rounds, of one at least, of no more than the budget has."""
        taken: list[float] = []
        while len(taken) < rounds and (not taken or budget.left() > 0):
            start = self._clock()
            self.round()
            taken.append(self._clock() - start)
        return taken

    def waits(self, device: Device, rounds: int = 5) -> float | None:
        """Times that the host waits for the device in a round, the median; None if untold."""
        counts = [count_waits(self.round, device) for _ in range(rounds)]
        told = [count for count in counts if count is not None]
        return float(np.median(told)) if told else None


@cache
def digits(count: int) -> ImageDataset:
    """The first digits of the packaged set, rated by the digit and each of a class of its own."""
    whole = load_dataset("digits#value", split="tune")
    assert whole.scores is not None
    images, names = np.asarray(whole.images[np.arange(count)]), tuple(map(str, range(count)))
    return ImageDataset("few digits", images, np.arange(count), whole.scores[:count], names)


def make_env(arms: int, *, has_labels: bool) -> gym.Env[Any, Any]:
    """Digits without an end: K images that pay their digit, or one image and K labels, one right.

    A hundred images: after thirty rounds an agent has seen nearly all of them. The label of one
    has nothing to do with what it shows; times do not depend on that.
    """
    shown = digits(max(_IMAGES, arms))
    if not has_labels:
        law: dict[str, Any] = {"dataset": shown, "num_arms": arms, "reward": "score"}
        return gym.make("vitucb/ImageArms-v0", max_episode_steps=10**9, **law)
    labels = shown.labels % arms if shown.labels is not None else None
    context = ImageDataset("labelled", shown.images, labels, class_names=shown.class_names[:arms])
    return gym.make("vitucb/ImageContext-v0", dataset=context, max_episode_steps=10**9)


def count_waits(call: Callable[[], object], device: Device) -> int | None:
    """Times that the host waits for the device in `call`; None where nothing counts them."""
    if device.take_waits is not None:
        device.take_waits()
        call()
        return device.take_waits()
    if not device.is_cuda:
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in told)
