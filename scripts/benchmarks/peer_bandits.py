"""Neural bandits of published libraries as agents on features of the frozen backbone.

Calvera 1.0.2 (PyTorch Lightning, MIT licence) is trained over all rewards so far after every one,
as its own benchmark does; AgileRL 2.58.0 (Apache licence) takes `learn_step` steps on batches from
its replay buffer, as its training loop does. Both are optional, and only their own rows import
them. All chance of a peer comes from a generator of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from vitucb.agents.baselines.frozen_features import FrozenFeatures
from vitucb.seeding import torch_generator
from vitucb.types import Decision, Observation, State


class PeerAgent(ABC):
    """A bandit whose contexts are features of the frozen backbone, of norm 1 times `scale`."""

    def __init__(self, frozen: FrozenFeatures, seed: int, scale: float) -> None:
        """Start with no rounds; `seed` is that of all chance."""
        self._frozen, self._scale, self._rounds = frozen, scale, 0
        self._generator = torch_generator(seed, "peer")

    @abstractmethod
    def _choose(self, x: Tensor) -> int:
        """An arm, of contexts float32 (K, d)."""

    @abstractmethod
    def _learn(self, x: Tensor, reward: float) -> None:
        """Learn from the reward of a context float32 (d,)."""

    @contextlib.contextmanager
    def _chance(self) -> Iterator[None]:
        """Torch's one global generator, which peers draw from, goes on from our own inside."""
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.set_rng_state(self._generator.get_state())
            yield
            self._generator.set_state(torch.get_rng_state())

    def select_action(self, obs: Observation) -> Decision:
        """Features of the images, and the bandit's choice."""
        x = (self._frozen(obs["images"]) * self._scale).float()
        with self._chance():
            action = self._choose(x)
        nothing = np.zeros(len(x))
        self._rounds += 1
        return Decision(action, 1.0, nothing, nothing, x[action], self._rounds - 1, nothing)

    def update(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        """Let the bandit learn."""
        assert decision.phi is not None
        with self._chance():
            self._learn(decision.phi, reward)
        return {}

    def state_dict(self) -> State:
        """Nothing: streams are short and played from the start."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Nothing to restore."""
        del state


@dataclass(frozen=True, slots=True)
class CalveraSettings:
    """A bandit of calvera and how it is used.

    Attributes:
        bandit: Its class.
        settings: Arguments that differ from its defaults.
        outputs: Outputs of its network, or None without one.
        trainer: Arguments of Lightning's trainer that differ from its defaults.
    """

    module: ClassVar[str] = "calvera"

    bandit: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    outputs: int | None = None
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def build(self, frozen: FrozenFeatures, seed: int, arms: int) -> PeerAgent:
        """The bandit, for any number of arms."""
        return CalveraAgent(self, frozen, seed)


class CalveraAgent(PeerAgent):
    """A bandit of calvera."""

    def __init__(self, peer: CalveraSettings, frozen: FrozenFeatures, seed: int) -> None:
        """Build the bandit; `seed` is that of all its chance.

        Raises:
            ModuleNotFoundError: If calvera is not installed.
        """
        # Features of norm 1 for the linear bandit, of variance 1 for networks: what had less regret
        # of the two on the streams of seeds 1000 and 1001.
        super().__init__(frozen, seed, 1.0 if peer.outputs is None else frozen.dim**0.5)
        self._trainer_options = dict(peer.trainer)
        self._lightning = importlib.import_module("lightning.pytorch")
        bandits = importlib.import_module("calvera.bandits")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        with self._chance():
            settings = dict(peer.settings)
            if peer.outputs is not None:
                settings["network"] = _network(frozen.dim, peer.outputs)
            if peer.bandit == "NeuralLinearBandit":
                settings |= {"buffer": None, "n_embedding_size": peer.outputs}
            else:
                settings["n_features"] = frozen.dim
            self._bandit = getattr(bandits, peer.bandit)(**settings)

    def _choose(self, x: Tensor) -> int:
        chosen, _ = self._bandit(x[None])
        return int(chosen[0].argmax())

    def _learn(self, x: Tensor, reward: float) -> None:
        self._bandit.record_feedback(x[None, None], torch.tensor([[reward]]))
        trainer = self._lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            **self._trainer_options,
        )
        trainer.fit(self._bandit)


def _network(inputs: int, outputs: int) -> torch.nn.Module:
    """Two hidden layers of 128, which calvera's own benchmark calls small."""
    width = 128
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, outputs),
    )


@dataclass(frozen=True, slots=True)
class AgileSettings:
    """A bandit of AgileRL and how it is used.

    Attributes:
        bandit: Its class.
        settings: Arguments that differ from its defaults.
    """

    module: ClassVar[str] = "agilerl"

    bandit: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def build(self, frozen: FrozenFeatures, seed: int, arms: int) -> PeerAgent:
        """The bandit, for so many arms."""
        return AgileAgent(self, frozen, seed, arms)


class AgileAgent(PeerAgent):
    """A bandit of AgileRL with its replay buffer."""

    def __init__(self, peer: AgileSettings, frozen: FrozenFeatures, seed: int, arms: int) -> None:
        """Build the bandit; `seed` is that of all its chance.

        Raises:
            ModuleNotFoundError: If agilerl is not installed.
        """
        # Norm 1 had less regret than variance 1 on the streams of seeds 1000 and 1001.
        super().__init__(frozen, seed, 1.0)
        algorithms = importlib.import_module("agilerl.algorithms")
        buffers = importlib.import_module("agilerl.components.replay_buffer")
        self._rows = importlib.import_module("tensordict").TensorDict
        contexts = gym.spaces.Box(-np.inf, np.inf, (frozen.dim,), np.float32)
        with self._chance():
            make = getattr(algorithms, peer.bandit)
            self._bandit = make(contexts, gym.spaces.Discrete(arms), **peer.settings)
            self._replay = buffers.ReplayBuffer(max_size=10_000)

    def _choose(self, x: Tensor) -> int:
        return int(self._bandit.get_action(x.numpy()))

    def _learn(self, x: Tensor, reward: float) -> None:
        row = {"obs": x[None], "reward": torch.tensor([reward], dtype=torch.float32)}
        self._replay.add(self._rows(row, batch_size=[1]))
        if len(self._replay) >= self._bandit.batch_size:
            for _ in range(self._bandit.learn_step):
                self._bandit.learn(self._replay.sample(self._bandit.batch_size))


# experiments/datasets/mnist/config.yaml of its repository. The learning rate stays at its default:
# the file calls it `lr`, which the classes do not take.
_MNIST = {"weight_decay": 1e-5}
_EMBEDDING = 64
PEERS: Final[dict[str, CalveraSettings | AgileSettings]] = {
    "calvera NeuralUCB": CalveraSettings("NeuralUCBBandit", outputs=1),
    "calvera NeuralUCB, its MNIST settings": CalveraSettings(
        "NeuralUCBBandit",
        {**_MNIST, "exploration_rate": 0.1},
        outputs=1,
        trainer={"gradient_clip_val": 20.0},
    ),
    "calvera NeuralLinear": CalveraSettings("NeuralLinearBandit", outputs=_EMBEDDING),
    "calvera NeuralLinear, lazy": CalveraSettings(
        "NeuralLinearBandit", {"lazy_uncertainty_update": True}, outputs=_EMBEDDING
    ),
    "calvera LinearUCB": CalveraSettings("LinearUCBBandit"),
    "agilerl NeuralUCB": AgileSettings("NeuralUCB"),
    "agilerl NeuralUCB, batch 16": AgileSettings("NeuralUCB", {"batch_size": 16}),
    "agilerl NeuralTS": AgileSettings("NeuralTS"),
}
