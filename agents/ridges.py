"""Default ridges by family of environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from vitucb.agents.context import num_label_actions
from vitucb.config import AgentConfig


def covariance_ridge(config: AgentConfig, env: gym.Env[Any, Any]) -> float:
    """Ridge of the covariance of `config`, or its default for `env`.

    Where actions share an image, nothing learnt of one action helps another: each needs bonuses of
    its own, and larger ones.
    """
    default = 2.0 if num_label_actions(env) is None else 0.1
    return default if config.covariance.ridge is None else config.covariance.ridge


def head_ridge(config: AgentConfig, env: gym.Env[Any, Any]) -> float:
    """Ridge of the head of `config`, or its default for `env`."""
    default = 1.0 if num_label_actions(env) is None else 0.1
    return default if config.head_ridge is None else config.head_ridge
