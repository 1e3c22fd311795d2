"""Laws that studies play: an environment and a horizon each, and on which seeds.

The first twelve are those of published experiments and of `docs/results/bandits.md`; the others
are further images, numbers of arms, noises, recurrences and truths, among them some that a
model of exclusive labels, or any model of pixels, gets wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from vitucb.envs.data.datasets import load_dataset
from vitucb.envs.image_context import ImageContextEnv

ONCE = {"options": {"with_replacement": False}}
LABELS = {"id": "vitucb/ImageContext-v0"}
HALF = "laws:HalfOfLabels-v0"
RATED = {"id": "vitucb/RatedItems-v0"}


@dataclass(frozen=True)
class Law:
    """What is played.

    Attributes:
        env: The `env` section; `dataset` without its folder.
        rounds: Horizon T.
        seeds: How many.
        is_shared: Whether all arms share one image.
    """

    env: Mapping[str, Any]
    rounds: int
    seeds: int = 10
    is_shared: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_shared", self.env.get("id") in (LABELS["id"], HALF))

    def environment(self, data: Path, runs: Path) -> dict[str, Any]:
        """The `env` section with the data set where it lies, or made in `runs`."""
        env = dict(self.env)
        name = env.get("dataset", "digits")
        if name == "scored digits":
            env["dataset"] = str(write_scored_digits(runs / "scored-digits.npz"))
        elif ".npz" in name:
            env["dataset"] = str(data / name)
        return env


def arms(dataset: str, reward: str, **more: Any) -> dict[str, Any]:
    """An environment with an image per arm."""
    return {"dataset": dataset, "reward": reward, "num_arms": 10, **more}


def labels(dataset: str, **more: Any) -> dict[str, Any]:
    """An environment with one image and a label per arm."""
    return {**LABELS, "dataset": dataset, **more}


class HalfOfLabels(ImageContextEnv):
    """One image, ten labels, five of them right: c to c + 4 for an image of class c."""

    def __init__(self, dataset: str = "digits") -> None:
        right = [[float((a - c) % 10 < 5) for a in range(10)] for c in range(10)]
        super().__init__(dataset, class_rewards=right)


gym.register("HalfOfLabels-v0", entry_point="laws:HalfOfLabels")


def write_scored_digits(path: Path) -> Path:
    """The packaged digits, each with a rating that has nothing to do with its pixels."""
    digits = load_dataset("digits").images
    images = np.stack([digits[i] for i in range(len(digits))])
    scores = np.random.default_rng(0).normal(0, 1, len(images)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, images=images, scores=scores)
    return path


LAWS: dict[str, Law] = {
    "digits": Law(arms("digits", "bernoulli"), 1_000, 30),
    "digits-normal": Law(arms("digits", "gaussian", noise_std=3.0), 10_000, 30),
    "digits-paper": Law({"id": "vitucb/DigitsPaper-v0"}, 10_000),
    "silhouettes": Law(
        {**RATED, "dataset": "bass_affect_safe_128px.npz#val_mean_us", "noise_std": 1.0}, 2_000
    ),
    "emoji": Law({**RATED, "dataset": "emoji_sentiment_64px.npz", "noise_std": 0.25}, 2_000),
    "fashion-arms": Law(arms("fashion_mnist_test10k.npz", "bernoulli"), 1_000, 30),
    "mnist": Law(labels("mnist_test10k.npz", **ONCE), 10_000, 6),
    "fashion": Law(labels("fashion_mnist_test10k.npz", **ONCE), 10_000, 3),
    "cifar10": Law(labels("cifar10_test10k_jpeg.npz", **ONCE), 10_000, 3),
    "flowers": Law(labels("flowers5_112px_jpeg.npz", **ONCE), 4_064),
    "mnist-arms-3": Law(arms("mnist_test10k.npz", "bernoulli") | {"num_arms": 3}, 1_000, 30),
    "cifar10-arms": Law(
        arms("cifar10_test10k_jpeg.npz", "gaussian", noise_std=2.0) | {"num_arms": 5}, 2_000
    ),
    "digits-labels": Law(labels("digits"), 1_000),
    "digits-half": Law({"id": HALF, "dataset": "digits"}, 1_000, 30),
    "digits-scored": Law({**RATED, "dataset": "scored digits", "noise_std": 0.5}, 2_000),
}
"""Name -> law. `digits-half`: five labels are right for every image. `digits-scored`: the reward is
the image's own and its pixels say nothing of it."""

TUNING: dict[str, Law] = {
    "digits": LAWS["digits"],
    "fashion-arms": Law(arms("fashion_mnist_train10k.npz", "bernoulli"), 1_000),
    "mnist-arms": Law(arms("mnist_train10k.npz", "bernoulli"), 2_000),
    "cifar10-arms": Law(arms("cifar10_train50k_jpeg.npz", "gaussian", noise_std=3.0), 2_000),
    "digits-normal": Law(arms("digits", "gaussian", noise_std=3.0), 2_000),
    "silhouettes": LAWS["silhouettes"],
    "emoji": LAWS["emoji"],
    "mnist-half": Law({"id": HALF, "dataset": "mnist_train10k.npz"}, 1_000),
    "mnist": Law(labels("mnist_train10k.npz", **ONCE), 3_000),
    "fashion": Law(labels("fashion_mnist_train10k.npz", **ONCE), 3_000),
    "cifar10": Law(labels("cifar10_train50k_jpeg.npz", **ONCE), 3_000),
}
"""Laws on which defaults are chosen, with seeds from 100 on."""
