"""Rewards of chosen labels in bounded memory: a uniform sample of the history, or the newest."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from vitucb.learning.experts.label_head import LabelData
from vitucb.seeding import numpy_generator
from vitucb.types import State

Inputs: TypeAlias = Callable[[NDArray[np.float32], NDArray[np.int64]], NDArray[np.float32]]

_FIRST_ROWS = 256
# Discounted observations that count less than this are dropped.
_LEAST_WEIGHT = 1e-3


class LabelHistory:
    """Feature, label, reward and round of observations.

    Past the capacity it keeps a uniform sample of all (Vitter, "Random sampling with a reservoir",
    1985, algorithm R), or the newest where observations are discounted.

    Attributes:
        seen: Observations so far.
        low, high: Least and largest reward so far, reward units; NaN before the first.
    """

    def __init__(self, num_features: int, capacity: int, discount: float, seed: int) -> None:
        """Start with no observations.

        Args:
            num_features: Number of features d.
            capacity: Most observations kept.
            discount: Weight of an observation after one more round, in (0, 1].
            seed: Of the sample.

        Raises:
            ValueError: If the capacity is below 1.
        """
        if capacity < 1:
            raise ValueError(f"capacity {capacity} must be at least 1")
        if discount < 1:
            capacity = min(capacity, math.ceil(math.log(_LEAST_WEIGHT) / math.log(discount)))
        self._capacity, self._discount = capacity, discount
        self._rng = numpy_generator(seed, "labels")
        self._features = np.zeros((0, num_features), np.float32)
        self._actions, self._rounds = np.zeros((2, 0), np.int64)
        self._rewards = np.zeros(0)
        self.seen, self.low, self.high, self._sum = 0, np.nan, np.nan, 0.0

    def __len__(self) -> int:
        return min(self.seen, self._capacity)

    @property
    def reward_range(self) -> tuple[float, float]:
        """The rewards that p = 0 and p = 1 stand for: the least and the largest so far.

        Where all were the same, it is 0 to that reward if it is positive, and else from it 1 up:
        rewards of 0 and 1 are read right from the first one on.
        """
        if self.seen == 0:
            return 0.0, 1.0
        if self.low < self.high:
            return self.low, self.high
        return (0.0, self.high) if self.high > 0 else (self.low, self.low + 1.0)

    @property
    def mean(self) -> float:
        """Mean reward on a scale 0 to 1 of `reward_range`, with one of 1/2 more; in (0, 1)."""
        low, high = self.reward_range
        return ((self._sum - low * self.seen) / (high - low) + 0.5) / (self.seen + 1)

    def add(self, features: NDArray[np.float32], action: int, reward: float, round: int) -> None:
        """Take in one observation; features (d,)."""
        self.low = float(np.fmin(self.low, reward))
        self.high = float(np.fmax(self.high, reward))
        self._sum += reward
        place = self._place()
        self.seen += 1
        if place is None:
            return
        self._make_room(place + 1)
        self._features[place] = features
        self._actions[place], self._rounds[place] = action, round
        self._rewards[place] = reward

    def _place(self) -> int | None:
        """Where the next observation goes; None where it is not kept."""
        if self.seen < self._capacity:
            return self.seen
        if self._discount < 1:
            return self.seen % self._capacity
        place = int(self._rng.integers(0, self.seen + 1))
        return place if place < self._capacity else None

    def _make_room(self, size: int) -> None:
        held = len(self._actions)
        if size > held:
            more = min(max(held, _FIRST_ROWS), self._capacity - held)
            self._features = np.pad(self._features, ((0, more), (0, 0)))
            self._actions = np.pad(self._actions, (0, more))
            self._rounds = np.pad(self._rounds, (0, more))
            self._rewards = np.pad(self._rewards, (0, more))

    def data(self, round: int, inputs: Inputs = lambda features, _: features) -> LabelData:
        """All observations kept, weighed as in `round`; at least one.

        Args:
            round: Of now.
            inputs: What is made of features (n, d) of observations of rounds (n,): (n, m).
        """
        n = len(self)
        low, high = self.reward_range
        ages = (round - self._rounds[:n]).astype(np.float64)
        # By the newest: rewards may all come so late that their weights are 0.
        weights = self._discount ** (ages - ages.min())
        total = float(weights.sum())
        counted = total * self._discount ** float(ages.min())
        return LabelData(
            torch.from_numpy(inputs(self._features[:n], self._rounds[:n])),
            torch.from_numpy(self._actions[:n]),
            torch.from_numpy(((self._rewards[:n] - low) / (high - low)).astype(np.float32)),
            torch.from_numpy((weights / total).astype(np.float32)),
            max(total * self.seen / n if self._discount == 1 else counted, 1.0),
        )

    def state_dict(self) -> State:
        """Observations, counters and generator."""
        n = len(self)
        return {
            "features": self._features[:n].copy(),
            "actions": self._actions[:n].copy(),
            "rounds": self._rounds[:n].copy(),
            "rewards": self._rewards[:n].copy(),
            "seen": self.seen,
            "range": np.array([self.low, self.high, self._sum]),
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._features = np.array(state["features"], np.float32)
        self._actions = np.array(state["actions"], np.int64)
        self._rounds = np.array(state["rounds"], np.int64)
        self._rewards = np.array(state["rewards"], np.float64)
        self.seen = int(state["seen"])
        self.low, self.high, self._sum = map(float, state["range"])
        self._rng.bit_generator.state = state["rng"]
