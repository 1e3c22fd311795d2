"""Short plays on a device, for the process that has the simulated accelerator."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import vitucb
from tests.simulated import accelerator
from vitucb.storage.state_files import load_state, save_state
from vitucb.types import Agent

ARMS = 3


@dataclass(frozen=True, slots=True)
class Game:
    """An agent, its settings and an environment.

    Attributes:
        agent: Name of the agent.
        settings: Overrides of its configuration.
        is_shared: Whether one image is the context of all arms.
        rounds: Rounds played.
    """

    agent: str = "vit-ucb"
    settings: dict[str, Any] = field(default_factory=dict)
    is_shared: bool = False
    rounds: int = 5

    def env(self) -> gym.Env[Any, Any]:
        if self.is_shared:
            return gym.make("vitucb/ImageContext-v0", max_episode_steps=self.rounds)
        return gym.make("vitucb/ImageArms-v0", num_arms=ARMS, max_episode_steps=self.rounds)

    def make(self, env: gym.Env[Any, Any], device: str) -> Agent:
        return vitucb.make_agent(self.agent, env, device=device, **self.settings)


@dataclass(frozen=True, slots=True)
class Played:
    """What an agent did, by round.

    Attributes:
        actions: Arms chosen.
        means: Expected rewards of all arms, float64 (T, K).
        widths: Confidence widths, float64 (T, K).
        waits: Times the host waited for the device, by place.
    """

    actions: list[int]
    means: np.ndarray[Any, Any]
    widths: np.ndarray[Any, Any]
    waits: list[Counter[str]]


def start() -> None:
    """Make the simulated accelerator, and leave no other way to products than PyTorch's own.

    Bits matter: a kernel fitted to fewer images than it has axes takes the missing ones from
    rounding, so that widths of images seen later differ by 0.1 with features that differ by 1e-7.
    """
    torch.set_num_threads(1)  # small tensors gain nothing from two
    # oneDNN is taken on the processor alone, in `onednn_linear`.
    torch.backends.mkldnn.set_flags(False)  # type: ignore[no-untyped-call]  # torch's has no types
    accelerator.install()


def play(game: Game, device: str) -> Played:
    """The game from its first round to its last."""
    env = game.env()
    return _rounds(game, env, game.make(env, device), range(game.rounds))


def play_in_halves(game: Game, first: str, second: str, folder: Path) -> Played:
    """The game, saved on one device at half time and restored on another."""
    env, half = game.env(), game.rounds // 2
    agent = game.make(env, first)
    before = _rounds(game, env, agent, range(half))
    save_state(agent.state_dict(), folder)
    env = game.env()
    agent = game.make(env, second)
    agent.load_state_dict(load_state(folder))
    after = _rounds(game, env, agent, range(half, game.rounds))
    return Played(
        before.actions + after.actions,
        np.concatenate([before.means, after.means]),
        np.concatenate([before.widths, after.widths]),
        before.waits + after.waits,
    )


def play_deployed(game: Game, device: str, folder: Path) -> list[int]:
    """Arms chosen by a deployed agent that is saved and loaded after the second reward."""
    made = vitucb.deploy(
        game.agent, num_arms=ARMS, shares_image=game.is_shared, device=device, **game.settings
    )
    images = np.random.default_rng(0).integers(0, 256, (4, ARMS, 32, 32, 3), np.uint8)
    actions = []
    for t, offered in enumerate(images):
        if t == 2:
            made = vitucb.load_agent(made.save(folder), device=device)
        decision = made.act(offered[0] if game.is_shared else offered)
        made.observe(decision.id, reward=float(t % 2))
        actions.append(decision.action)
    return actions


def _rounds(game: Game, env: gym.Env[Any, Any], agent: Agent, played: range) -> Played:
    """Some rounds; images and rewards do not depend on what was chosen."""
    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    actions, means, widths, waits = [], [], [], []
    for t in range(game.rounds):
        reward = float(rng.integers(2))
        if t in played:
            accelerator.take_waits()
            decision = agent.select_action(obs)
            agent.update(obs, decision, reward)
            waits.append(accelerator.take_waits())
            actions.append(decision.action)
            means.append(decision.mean)
            widths.append(decision.width)
        obs, *_ = env.step(0)
    return Played(actions, np.array(means), np.array(widths), waits)
