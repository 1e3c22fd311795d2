"""`full-finetune`: every weight of the ViT is trained online; the last layer gives the width."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from torch import Tensor

from vitucb.agents.baselines.last_layer import (
    LastLayerAgent,
    TrainingPlan,
    build_network,
    last_layer_covariance,
)
from vitucb.agents.baselines.tensor_replay import TensorReplay
from vitucb.agents.options import refuse_options
from vitucb.agents.ridges import covariance_ridge
from vitucb.config import AgentConfig
from vitucb.policies import Array, make_policy
from vitucb.seeding import numpy_generator, torch_generator


class FullFinetune(LastLayerAgent):
    """Every weight of the ViT is trained; the mean is the network's, the width its last layer's."""

    def _mean(self, score: Tensor, phi: Tensor) -> Array:
        mean: Array = score.double().cpu().numpy()
        return self._rewards.mean + self._rewards.std * mean


def build(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory of `full-finetune`: `agent.training` says how often, the policy is the configured.

    Raises:
        ValueError: If a setting is not usable.
    """
    refuse_options(config)
    training = config.training
    model, preprocess, optimizer = build_network(config, env, seed, device, "all")
    plan = TrainingPlan(
        training.update_every,
        training.gradient_steps,
        training.batch_size,
        "never" if training.rebuild == "none" else "doubling",
    )
    return FullFinetune(
        model,
        preprocess,
        optimizer,
        plan,
        last_layer_covariance(model, covariance_ridge(config, env)),
        make_policy(config.policy),
        TensorReplay(training.replay_capacity, torch_generator(seed, "replay")),
        numpy_generator(seed, "policy"),
    )
