"""The images that were chosen and the rewards they earned."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitucb.types import State


class Replay:
    """A bounded memory of (image, reward), a uniform sample of the history once full.

    Vitter, "Random sampling with a reservoir", 1985, algorithm R. The prototype kept the last 50
    only, so its mean and its covariance described different estimators.
    """

    def __init__(self, capacity: int, rng: np.random.Generator) -> None:
        """Make an empty memory of `capacity` items; `rng` draws the reservoir and the batches.

        Raises:
            ValueError: If `capacity` is less than 1.
        """
        if capacity < 1:
            raise ValueError(f"agent.training.replay_capacity {capacity} must be at least 1")
        self.capacity = capacity
        self.seen = 0
        self._rng = rng
        self._images: list[NDArray[np.uint8]] = []
        self._rewards: list[float] = []
        self._newest = 0

    def __len__(self) -> int:
        return len(self._images)

    def add(self, image: NDArray[np.uint8], reward: float) -> None:
        """Remember one image uint8 (H, W, C) and its reward."""
        self.seen += 1
        if len(self) < self.capacity:
            self._newest = len(self)
            self._images.append(np.array(image))
            self._rewards.append(reward)
            return
        slot = int(self._rng.integers(self.seen))
        if slot < self.capacity:
            self._newest = slot
            self._images[slot] = np.array(image)
            self._rewards[slot] = reward

    def sample(self, size: int) -> tuple[list[NDArray[np.uint8]], NDArray[np.float64]]:
        """The newest item and a uniform sample of the others, without replacement.

        Args:
            size: Wanted number of items; all of them if fewer are held.

        Returns:
            Images, and rewards float64 (b,).
        """
        others = self._rng.permutation(len(self))[:size]
        if self._newest not in others:
            others[-1] = self._newest
        return self.items(others)

    def items(
        self, indices: NDArray[np.int64] | slice
    ) -> tuple[list[NDArray[np.uint8]], NDArray[np.float64]]:
        """Images and rewards float64 at `indices`, in that order."""
        chosen = np.arange(len(self))[indices]
        rewards = np.array([self._rewards[i] for i in chosen], np.float64)
        return [self._images[i] for i in chosen], rewards

    def state_dict(self) -> State:
        """Images as one stack where shapes agree, rewards, counters and the generator."""
        return {
            "images": {str(i): image for i, image in enumerate(self._images)},
            "rewards": np.array(self._rewards, np.float64),
            "seen": self.seen,
            "newest": self._newest,
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        images: dict[str, Any] = state["images"]
        self._images = [np.asarray(images[str(i)], np.uint8) for i in range(len(images))]
        self._rewards = [float(r) for r in state["rewards"]]
        self.seen, self._newest = int(state["seen"]), int(state["newest"])
        self._rng.bit_generator.state = state["rng"]
