"""A bandit over zeros and ones, one of which pays nearly always and the other hardly ever."""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np

from vitucb.envs.data.datasets import load_dataset
from vitucb.envs.data.image_dataset import ImageDataset


@cache
def zeros_and_ones() -> ImageDataset:
    """Handwritten 0s and 1s."""
    digits = load_dataset("digits")
    assert digits.labels is not None
    kept = np.flatnonzero(digits.labels < 2)
    return ImageDataset(
        images=digits.images[kept],
        labels=digits.labels[kept],
        class_names=("0", "1"),
        name="zeros and ones",
    )


def two_digits(rounds: int) -> gym.Env[Any, Any]:
    return gym.make(
        "vitucb/ImageArms-v0",
        dataset=zeros_and_ones(),
        num_arms=2,
        class_rewards=[0.05, 0.95],
        max_episode_steps=rounds,
    )
