"""The images that were chosen and the rewards they earned."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vitucb.types import State

_STACK = 64


@dataclass(frozen=True, slots=True)
class Batch:
    """Items of the replay.

    Attributes:
        slots: Where they are held, int64 (b,).
        images: Chosen images, uint8 (H, W, C) each.
        rewards: float64 (b,).
        actions: What was chosen, int64 (b,).
    """

    slots: NDArray[np.int64]
    images: list[NDArray[np.uint8]]
    rewards: NDArray[np.float64]
    actions: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Batch:
        """The items in these rows."""
        images = [self.images[row] for row in rows]
        return Batch(self.slots[rows], images, self.rewards[rows], self.actions[rows])


class Replay:
    """A bounded memory of (image, action, reward): once full, a sample of the history or its end.

    `reservoir` keeps a uniform sample of the whole history (Vitter, "Random sampling with a
    reservoir", 1985, algorithm R), `window` the newest items, for rewards that drift. The prototype
    kept the last 50 only, so its mean and its covariance described different estimators.
    """

    def __init__(
        self,
        capacity: int,
        rng: np.random.Generator,
        keep: Literal["reservoir", "window"] = "reservoir",
    ) -> None:
        """Make an empty memory of `capacity` items; `rng` draws the reservoir and the batches.

        Raises:
            ValueError: If `capacity` is less than 1.
        """
        if capacity < 1:
            raise ValueError(f"agent.training.replay_capacity {capacity} must be at least 1")
        self.capacity, self.keep = capacity, keep
        self.seen = 0
        self._rng = rng
        self._images: list[NDArray[np.uint8]] = []
        self._rewards: list[float] = []
        self._actions: list[int] = []

    def __len__(self) -> int:
        return len(self._images)

    def add(self, image: NDArray[np.uint8], reward: float, action: int = 0) -> int | None:
        """Remember one image uint8 (H, W, C) and its reward; its slot, or None if not kept."""
        self.seen += 1
        slot = len(self)
        if slot < self.capacity:
            self._images.append(np.array(image))
            self._rewards.append(reward)
            self._actions.append(action)
            return slot
        if self.keep == "window":
            slot = (self.seen - 1) % self.capacity
        else:
            slot = int(self._rng.integers(self.seen))
        if slot >= self.capacity:
            return None
        self._images[slot] = np.array(image)
        self._rewards[slot], self._actions[slot] = reward, action
        return slot

    def clear(self) -> None:
        """Forget everything."""
        self.seen = 0
        self._images, self._rewards, self._actions = [], [], []

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

    def items(self, indices: NDArray[np.int64] | slice) -> Batch:
        """What is held at `indices`, in that order."""
        slots = np.arange(len(self))[indices]
        return Batch(
            slots=slots,
            images=[self._images[i] for i in slots],
            rewards=np.array([self._rewards[i] for i in slots], np.float64),
            actions=np.array([self._actions[i] for i in slots], np.int64),
        )

    def state_dict(self) -> State:
        """Images in stacks, rewards, actions, counters and the generator.

        A stack that is full stays as it is while nothing in it is replaced, so that checkpoints
        which share equal arrays keep it once.
        """
        return {
            "stacks": _stacked(self._images),
            "rewards": np.array(self._rewards, np.float64),
            "actions": np.array(self._actions, np.int64),
            "seen": self.seen,
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        stacks: list[Any] = state["stacks"]
        self._images = [image for stack in stacks for image in np.array(stack, np.uint8)]
        self._rewards = [float(r) for r in state["rewards"]]
        self._actions = [int(a) for a in state["actions"]]
        self.seen = int(state["seen"])
        self._rng.bit_generator.state = state["rng"]


def _stacked(images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Consecutive images of one shape, 64 at most, as arrays (n, H, W, C)."""
    stacks = []
    for start in range(0, len(images), _STACK):
        runs = itertools.groupby(images[start : start + _STACK], key=np.shape)
        stacks += [np.stack(list(run)) for _, run in runs]
    return stacks
