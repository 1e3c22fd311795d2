"""The images that were chosen and the rewards they earned."""

from __future__ import annotations

from collections.abc import Sequence
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

    def __len__(self) -> int:
        return len(self._images)

    def add(self, image: NDArray[np.uint8], reward: float) -> int | None:
        """Remember one image uint8 (H, W, C) and its reward; its slot, or None if not kept."""
        self.seen += 1
        slot = len(self)
        if slot < self.capacity:
            self._images.append(np.array(image))
            self._rewards.append(reward)
            return slot
        slot = int(self._rng.integers(self.seen))
        if slot >= self.capacity:
            return None
        self._images[slot] = np.array(image)
        self._rewards[slot] = reward
        return slot

    def sample(self, size: int, always: Sequence[int] = ()) -> NDArray[np.int64]:
        """Slots of the items in `always` and of a uniform sample of the others, no repeats.

        Args:
            size: Wanted number of items; all of them if fewer are held.
            always: Slots to include, e.g. of the newest rewards.
        """
        newest = np.array(sorted(set(always)), np.int64)
        others = np.setdiff1d(self._rng.permutation(len(self)), newest, assume_unique=True)
        slots: NDArray[np.int64] = np.concatenate([newest, others])[: max(size, len(newest))]
        return slots

    @property
    def rewards(self) -> NDArray[np.float64]:
        """All rewards held, float64 (n,)."""
        return np.array(self._rewards, np.float64)

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
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        images: dict[str, Any] = state["images"]
        self._images = [np.asarray(images[str(i)], np.uint8) for i in range(len(images))]
        self._rewards = [float(r) for r in state["rewards"]]
        self.seen = int(state["seen"])
        self._rng.bit_generator.state = state["rng"]
