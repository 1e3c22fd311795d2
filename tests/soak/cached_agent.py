"""`lin-ucb` that computes the features of each image once: rounds enough to wait for."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitucb.agents.feature_agent import FrozenFeatures
from vitucb.agents.linear import build_lin_ucb
from vitucb.config import AgentConfig


class CachedFeatures(FrozenFeatures):
    """The features of another, remembered by image."""

    def __init__(self, frozen: FrozenFeatures) -> None:
        self._frozen, self.dim = frozen, frozen.dim
        self._known: dict[bytes, Tensor] = {}

    def __call__(self, images: NDArray[np.uint8]) -> Tensor:
        """Features of images uint8 (n, H, W, C): float64 (n, d)."""
        keys = [image.tobytes() for image in images]
        new = [i for i, key in enumerate(keys) if key not in self._known]
        if new:
            rows = self._frozen(images[new])
            self._known |= {keys[i]: row for i, row in zip(new, rows, strict=True)}
        return torch.stack([self._known[key] for key in keys])

    def state_dict(self) -> dict[str, Any]:
        """That of the other."""
        return self._frozen.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._frozen.load_state_dict(state)


def build(config: AgentConfig, env: gym.Env[Any, Any], seed: int, device: str) -> Any:
    """Factory, named on the command line as `tests.soak.cached_agent:build`."""
    agent = build_lin_ucb(config, env, seed, device)
    agent._frozen = CachedFeatures(agent._frozen)
    return agent
