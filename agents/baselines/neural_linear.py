"""`neural-linear`: Bayesian linear regression on the last layer of a network that is trained.

Riquelme, Tucker and Snoek, "Deep Bayesian bandits showdown", 2018 -
https://arxiv.org/abs/1802.09127. The noise variance is in the posterior: with
A = ridge I + sum phi phi' and mu = A^-1 sum r phi,

    sigma^2 ~ IG(a0 + n / 2, b0 + (sum r^2 - mu' A mu) / 2),    beta ~ N(mu, sigma^2 A^-1),

and the best arm under one draw a round is played, its deviation times `policy.alpha`, 0.3 unless
set: 1 is the posterior, and the paper. Propensities are those given the drawn sigma^2, which no
reward of the round depends on, so importance weights with them stay unbiased.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from vitucb.agents.baselines.last_layer import (
    LastLayerAgent,
    TrainingPlan,
    build_network,
    last_layer_covariance,
)
from vitucb.agents.baselines.tensor_replay import TensorReplay
from vitucb.agents.options import read_options, require_positive
from vitucb.config import AgentConfig
from vitucb.policies import Array, make_policy
from vitucb.seeding import numpy_generator, torch_generator
from vitucb.types import State


@dataclass(frozen=True)
class NeuralLinearOptions:
    """`agent.options` of neural-linear; the learning rates are those of `agent.optimizer`."""

    train: Literal["adapters", "all", "none"] = "adapters"
    """What is trained below the last layer: LoRA adapters, every weight, or nothing."""
    refresh_every: int = 50
    """Train and compute all features anew after so many rewards."""
    steps: int = 50
    """Optimizer steps per training."""
    a0: float = 6.0
    """Prior shape of the noise variance."""
    b0: float = 6.0
    """Prior scale of the noise variance, squared reward units: ones, thousandths, thousands, ...,
    whichever is nearest to the standard deviation of the rewards so far."""
    ridge: float = 0.25
    """Prior precision of the parameters, in units of the noise variance."""


class NeuralLinear(LastLayerAgent):
    """Bayesian linear regression on the last layer, noise variance included."""

    def __init__(self, *parts: Any, a0: float, b0: float, **named: Any) -> None:
        """As `LastLayerAgent`, and the prior of the noise variance, IG(a0, b0)."""
        super().__init__(*parts, **named)
        self._a0, self._b0 = a0, b0
        self._response = torch.zeros(self._covariance.dim, dtype=torch.float64)
        self._squares = self._count = 0.0

    @property
    def noise_posterior(self) -> tuple[float, float]:
        """Shape and scale of the inverse gamma posterior of the noise variance."""
        mu = self._covariance.solve(self._response)
        unexplained = self._squares - float(self._response @ mu.cpu())
        prior = self._b0 * thousandfold(self._rewards.std) ** 2
        return self._a0 + self._count / 2, prior + max(unexplained, 0.0) / 2

    def _width_unit(self) -> float:
        """The noise deviation of this round's draw."""
        shape, scale = self.noise_posterior
        return float(np.sqrt(scale / self._rng.gamma(shape)))

    def _mean(self, score: Tensor, phi: Tensor) -> Array:
        mean: Array = (phi.cpu() @ self._covariance.solve(self._response).cpu()).numpy()
        return mean

    def _take_in(self, phi: Tensor, reward: float) -> None:
        self._add(phi[None], torch.tensor([reward], dtype=torch.float64), 1.0)

    def _begin_rebuild(self) -> None:
        self._response = torch.zeros_like(self._response)
        self._squares = self._count = 0.0

    def _rebuilt(self, phi: Tensor, rewards: Tensor, weight: float) -> None:
        self._add(phi, rewards, weight)

    def _add(self, phi: Tensor, rewards: Tensor, weight: float) -> None:
        self._response += weight * (rewards @ phi.double().cpu())
        self._squares += weight * float(rewards @ rewards)
        self._count += weight * len(rewards)

    def state_dict(self) -> State:
        """That of the base, and the sums of the regression."""
        return super().state_dict() | {
            "response": self._response.clone(),
            "squares": self._squares,
            "count": self._count,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._response = state["response"].clone()
        self._squares, self._count = float(state["squares"]), float(state["count"])


def thousandfold(size: float) -> float:
    """The power of 1,000 nearest to `size` > 0 on a logarithmic scale."""
    return 1000.0 ** round(math.log(size, 1000))


def build(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `neural-linear`: joint Thompson sampling from the posterior.

    Raises:
        ValueError: If an option is not usable.
    """
    options = read_options(NeuralLinearOptions(), config)
    require_positive(
        refresh_every=options.refresh_every,
        steps=options.steps,
        a0=options.a0,
        b0=options.b0,
        ridge=options.ridge,
    )
    model, preprocess, optimizer = build_network(config, env, seed, device, options.train)
    training = config.training
    return NeuralLinear(
        model,
        preprocess,
        optimizer,
        TrainingPlan(options.refresh_every, options.steps, training.batch_size, "training"),
        last_layer_covariance(model, options.ridge),
        make_policy(dataclasses.replace(config.policy, name="thompson", joint=True)),
        TensorReplay(training.replay_capacity, torch_generator(seed, "replay")),
        numpy_generator(seed, "policy"),
        a0=options.a0,
        b0=options.b0,
    )
