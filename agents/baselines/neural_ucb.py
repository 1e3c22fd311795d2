"""`neural-ucb` and `neural-ts`: a small network whose gradient is the feature.

Zhou et al., "Neural contextual bandits with UCB-based exploration", 2020 -
https://arxiv.org/abs/1911.04462; Zhang et al., "Neural Thompson sampling", 2021 -
https://arxiv.org/abs/2010.00827. With g the gradient of the score in *all* parameters, features
are g / sqrt(m), Z = ridge I + sum g g' / m, and the network minimises

    sum_i (f(x_i) - r_i)^2 / 2 + m ridge |theta - theta_0|^2 / 2

over the whole history, from a start with f(x; theta_0) = 0. Gradients in Z are those of their
round, as in the papers.

Differs: rewards are standardised by their running mean and deviation and widths multiplied by the
estimated noise, so that alpha is free of units; Adam on minibatches instead of gradient descent on
the sum; the network goes on from where it was. The input is the frozen backbone's feature [h; 1]
of unit norm (`mlp`) or pixels of 32 x 32 (`cnn`; Ban and He, "Convolutional neural bandit", 2021).
Where one image is the context of all arms the network has one output per arm.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitucb.agents.baselines.frozen_features import FrozenFeatures, build_frozen_features
from vitucb.agents.baselines.networks import SmallCNN, SymmetricNetwork, TwoLayer
from vitucb.agents.baselines.tensor_replay import TensorReplay
from vitucb.agents.context import chosen_image, is_image_context, num_label_actions
from vitucb.agents.feature_agent import FeatureAgent
from vitucb.agents.options import read_options, require_positive
from vitucb.agents.ridges import covariance_ridge
from vitucb.config import AgentConfig
from vitucb.covariance import FeatureCovariance
from vitucb.covariance.factory import configured_covariance
from vitucb.learning.reward_scale import RewardScale
from vitucb.models.preprocess import Preprocess
from vitucb.policies import Array, Policy, make_policy
from vitucb.seeding import numpy_generator, stream_seed, torch_generator
from vitucb.types import Decision, Observation, State

_PIXELS = (32, 32)


@dataclass(frozen=True)
class NeuralOptions:
    """`agent.options` of neural-ucb and neural-ts."""

    network: Literal["mlp", "cnn"] = "mlp"
    """Two layers on frozen features, or a small CNN on pixels."""
    hidden: int = 100
    """Width m."""
    lr: float = 1e-3
    """Learning rate of Adam."""
    steps: int = 10
    """Optimizer steps per training."""
    batch_size: int = 256
    """Rewards per step; a history that fits is taken whole."""


class NeuralUCB(FeatureAgent):
    """A symmetric network, its gradient features, and training towards theta_0."""

    def __init__(
        self,
        network: SymmetricNetwork,
        inputs: Callable[[NDArray[np.uint8]], Tensor],
        frozen: FrozenFeatures | None,
        covariance: FeatureCovariance,
        policy: Policy,
        rng: np.random.Generator,
        history: TensorReplay,
        options: NeuralOptions,
        update_every: int,
    ) -> None:
        """Put the parts together.

        Args:
            network: f, with one output, or one per arm where arms share an image.
            inputs: uint8 images (n, H, W, C) to inputs of the network, float32 (n, ...).
            frozen: The features behind `inputs`, if any, for the checkpoint.
            covariance: Z over all parameters of the network.
            policy: Turns means and widths into an action.
            rng: Generator of the policy.
            history: Memory of inputs and rewards.
            options: How to train.
            update_every: Train every so many rewards.
        """
        super().__init__(covariance, policy, rng)
        self._network, self._inputs, self._frozen = network, inputs, frozen
        self._history, self._options, self._every = history, options, update_every
        self._initial = [p.detach().clone() for p in network.parameters()]
        self._optimizer = torch.optim.Adam(network.parameters(), lr=options.lr)
        self._scale = RewardScale()
        self.parameters["trainable_parameters"] = network.num_parameters

    @property
    def image_passes(self) -> int:
        """For frozen features; what pixels go through is no backbone."""
        return 0 if self._frozen is None else self._frozen.image_passes

    def _score(self, obs: Observation) -> tuple[Array, Tensor]:
        x, arms = self._inputs(obs["images"]), len(obs["action_mask"])
        outputs = torch.zeros(arms, dtype=torch.int64)
        if is_image_context(obs):
            x, outputs = x.expand(arms, *x.shape[1:]), torch.arange(arms)
        score, gradient = self._network.scores_and_gradients(x, outputs.to(x.device))
        mean: Array = self._scale.mean + self._scale.std * score.double().cpu().numpy()
        return mean, gradient / math.sqrt(self._network.width)

    def _learn(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        self._scale.add(reward)
        x = self._inputs(chosen_image(obs, decision.action)[None])[0]
        self._history.add(x.cpu(), decision.action if is_image_context(obs) else 0, reward)
        if self._history.seen % self._every:
            return {}
        losses = [self._step() for _ in range(self._options.steps)]
        return {"train/loss": float(losses[-1])}

    def _step(self) -> Tensor:
        """One step of Adam on a batch; its mean squared error, in units of the reward variance."""
        held, outputs, rewards = self._history.sample(self._options.batch_size)
        x = torch.stack(held).to(next(self._network.parameters()))
        targets = ((rewards - self._scale.mean) / self._scale.std).to(x)
        scores = self._network(x).gather(1, outputs.to(x.device)[:, None])[:, 0]
        error = (scores - targets).square().mean()
        distance = sum(
            (p - start).square().sum()
            for p, start in zip(self._network.parameters(), self._initial, strict=True)
        )
        # The papers' sum over the history, divided by its length.
        strength = self._network.width * self._covariance.ridge / self._history.seen
        self._optimizer.zero_grad(set_to_none=True)
        (error + strength * distance).backward()
        self._optimizer.step()
        loss: Tensor = error.detach()
        return loss

    def state_dict(self) -> State:
        """That of the base, the network and its start, optimizer, history and scales."""
        return super().state_dict() | {
            "network": {n: p.detach().clone() for n, p in self._network.named_parameters()},
            "initial": [p.clone() for p in self._initial],
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
            "history": self._history.state_dict(),
            "scale": self._scale.state_dict(),
            "frozen": None if self._frozen is None else self._frozen.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._network.load_state_dict(state["network"])
        self._initial = [
            start.to(p) for start, p in zip(state["initial"], self._initial, strict=True)
        ]
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self._history.load_state_dict(state["history"])
        self._scale.load_state_dict(state["scale"])
        if self._frozen is not None:
            self._frozen.load_state_dict(state["frozen"])


def unit_inputs(frozen: FrozenFeatures, device: str) -> Callable[[NDArray[np.uint8]], Tensor]:
    """[h; 1] of unit norm of images, float32 (n, d + 1) on `device`."""

    def inputs(images: NDArray[np.uint8]) -> Tensor:
        h = frozen(images)
        x = torch.cat([h, torch.ones(len(h), 1, dtype=h.dtype)], dim=1)
        return torch.nn.functional.normalize(x, dim=1).float().to(device)

    return inputs


def build_neural_ucb(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `neural-ucb`: the configured covariance and policy.

    Raises:
        ValueError: If an option is not usable.
    """
    options = read_options(NeuralOptions(), config)
    require_positive(
        lr=options.lr,
        hidden=options.hidden // 2,
        steps=options.steps,
        batch_size=options.batch_size,
    )
    outputs = num_label_actions(env) or 1
    generator = torch_generator(seed, "network")
    frozen: FrozenFeatures | None = None
    inputs: Callable[[NDArray[np.uint8]], Tensor] = _pixels(device)
    if options.network == "mlp":
        frozen = build_frozen_features(config, env, device)
        inputs = unit_inputs(frozen, device)
        network = SymmetricNetwork(TwoLayer(frozen.dim + 1, options.hidden, outputs, generator))
    else:
        network = SymmetricNetwork(SmallCNN(options.hidden, outputs, generator))
    return NeuralUCB(
        network.to(device),
        inputs,
        frozen,
        configured_covariance(
            config.covariance,
            network.num_parameters,
            ridge=covariance_ridge(config, env),
            seed=stream_seed(seed, "covariance"),
        ),
        make_policy(config.policy),
        numpy_generator(seed, "policy"),
        TensorReplay(config.training.replay_capacity, torch_generator(seed, "replay")),
        options,
        config.training.update_every,
    )


def build_neural_ts(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `neural-ts`: `neural-ucb` with Thompson sampling, a draw per arm by default."""
    policy = dataclasses.replace(config.policy, name="thompson")
    return build_neural_ucb(dataclasses.replace(config, policy=policy), env, seed, device)


def _pixels(device: str) -> Preprocess:
    half = (0.5, 0.5, 0.5)
    return Preprocess(_PIXELS, half, half).to(device)
