"""Four tiny arms, and a record of everything that is seen while they are played."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import gymnasium
import numpy as np

from vitucb.envs.data.image_dataset import ImageDataset

Env: TypeAlias = gymnasium.Env[Any, Any]


def tiny_dataset() -> ImageDataset:
    labels = np.arange(12, dtype=np.int64) % 4
    images = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 3), np.uint8)
    return ImageDataset("tiny", images, labels, class_names=tuple("abcd"))


def arms(reward: str = "gaussian", horizon: int = 1000, **kwargs: Any) -> Env:
    kwargs = dict[str, Any](dataset=tiny_dataset(), num_arms=4, reward=reward) | kwargs
    return gymnasium.make("vitucb/ImageArms-v0", max_episode_steps=horizon, **kwargs)


def unwrapped(env: Env) -> Any:
    return env.unwrapped


def play(env: Env, rounds: int = 30, seed: int | None = 3) -> list[dict[str, Any]]:
    """Play the first arm on offer; everything seen, in order."""
    obs, _ = env.reset(seed=seed)
    seen = []
    for _ in range(rounds):
        means = np.array(unwrapped(env).expected_rewards)
        action = int(np.flatnonzero(obs["action_mask"])[0])
        images, mask = obs["images"][:, 0, 0, 0].tolist(), obs["action_mask"].tolist()
        obs, reward, _, _, info = env.step(action)
        row = {"images": images, "mask": mask, "means": means.tolist(), "action": action, **info}
        row["reward"] = None if math.isnan(reward) else reward
        row["arrivals"] = _attribute(env, "arrivals")
        row["lost"] = _attribute(env, "lost")
        row["drawn"] = _attribute(env, "drawn_reward")
        seen.append(row)
    return seen


def _attribute(env: Any, name: str) -> Any:
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None
