"""Sums of rewards per item, for a bounded number of items."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from vitucb.learning.image_memory import pack_keys, unpack_keys
from vitucb.types import State

Array = NDArray[np.float64]
_TINY = 1e-300


class RewardSums:
    """Numbers and sums of the rewards of every item, each reward less the first of all.

    Exact until `capacity` items were rewarded. Past it, the item rewarded least recently is
    forgotten, and its share of the squares with it.

    Attributes:
        squares: Discounted sum of the squares of rewards less `origin`.
        origin: The first reward: a level of 1,000 must not cost the digits of a noise of 1.
    """

    def __init__(self, capacity: int) -> None:
        """Start empty.

        Args:
            capacity: Most items held, at least 2.

        Raises:
            ValueError: If it is less.
        """
        if capacity < 2:
            raise ValueError(f"capacity {capacity} must be at least 2")
        self._capacity = capacity
        self._rows: OrderedDict[bytes, int] = OrderedDict()  # the least recently rewarded first
        self._counts, self._sums, self._squared_weights = np.zeros((3, 0))
        self.squares = 0.0
        self.origin: float | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def counts(self) -> Array:
        """Discounted numbers of rewards of the n items, (n,)."""
        return self._counts[: len(self)]

    @property
    def sums(self) -> Array:
        """Discounted sums of rewards less `origin`, (n,)."""
        return self._sums[: len(self)]

    @property
    def count(self) -> float:
        """Discounted number of rewards."""
        return float(self.counts.sum())

    @property
    def freedom(self) -> float:
        """What `within` is of a noise of variance 1 on average: n - 1 of every item's n rewards.

        Of rewards that fade, W - V / W with W the sum of their weights and V that of the squares.
        """
        squared = self._squared_weights[: len(self)]
        freedom = (self.counts - squared / np.maximum(self.counts, _TINY)).sum()
        return max(float(freedom), 0.0)

    @property
    def mean(self) -> float:
        """Discounted mean of the rewards; 0 before the first."""
        if self.origin is None:
            return 0.0
        return self.origin + float(self.sums.sum()) / max(self.count, _TINY)

    def within(self) -> float:
        """Discounted sum of the squares of rewards less the mean of their item."""
        between = float((np.square(self.sums) / np.maximum(self.counts, _TINY)).sum())
        return max(self.squares - between, 0.0)

    def look_up(self, keys: list[bytes], level: float) -> tuple[Array, Array]:
        """Numbers of rewards of items and their sums less `level`, (n,) each; 0 where none."""
        rows = [self._rows.get(key, -1) for key in keys]
        known = np.array(rows) >= 0
        if not known.any():
            return np.zeros(len(keys)), np.zeros(len(keys))
        counts = np.where(known, self._counts[rows], 0.0)
        sums = np.where(known, self._sums[rows], 0.0) - counts * (level - (self.origin or 0.0))
        return counts, sums

    def centred(self, level: float) -> tuple[Array, float]:
        """Sums of rewards less `level` per item (n,), and the sum of their squares over all."""
        shift = level - (self.origin or 0.0)
        squares = self.squares - 2 * shift * float(self.sums.sum()) + shift**2 * self.count
        return self.sums - self.counts * shift, max(squares, 0.0)

    def add(self, key: bytes, reward: float, weight: float = 1.0) -> int:
        """Take in a reward of an item, counted `weight` times; returns the row of the item."""
        if self.origin is None:
            self.origin = reward
        row = self._row_of(key)
        self._counts[row] += weight
        self._sums[row] += weight * (reward - self.origin)
        self._squared_weights[row] += weight**2
        self.squares += weight * (reward - self.origin) ** 2
        return row

    def discount(self, gamma: float) -> None:
        """Let a round pass: every reward counts `gamma` times what it did."""
        self._counts *= gamma
        self._sums *= gamma
        self._squared_weights *= gamma**2
        self.squares *= gamma

    def _row_of(self, key: bytes) -> int:
        if key in self._rows:
            self._rows.move_to_end(key)
            return self._rows[key]
        row = len(self)
        if row == self._capacity:
            row = next(iter(self._rows.values()))
            self._release(row)
            self._rows.popitem(last=False)
        elif row == len(self._counts):
            self._grow(min(max(64, 2 * row), self._capacity))
        self._counts[row] = self._sums[row] = self._squared_weights[row] = 0.0
        self._rows[key] = row
        return row

    def _release(self, row: int) -> None:
        """Give up a row: nothing of its rewards stays."""
        within, count = self.within(), self._counts[row]
        self.squares -= self._sums[row] ** 2 / max(count, _TINY)
        self.squares -= within * count / max(self.count, _TINY)

    def _grow(self, size: int) -> None:
        added = np.zeros(size - len(self._counts))
        self._counts = np.concatenate([self._counts, added])
        self._sums = np.concatenate([self._sums, added])
        self._squared_weights = np.concatenate([self._squared_weights, added])

    def state_dict(self) -> State:
        """Keys with their rows, and the sums."""
        return {
            "keys": pack_keys(self._rows),
            "rows": np.array(list(self._rows.values()), np.int64),
            "counts": self.counts.copy(),
            "sums": self.sums.copy(),
            "squared_weights": self._squared_weights[: len(self)].copy(),
            "squares": self.squares,
            "origin": self.origin,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        rows = np.asarray(state["rows"], np.int64).tolist()
        self._rows = OrderedDict(zip(unpack_keys(state["keys"]), rows, strict=True))
        self._counts = np.array(state["counts"], np.float64)
        self._sums = np.array(state["sums"], np.float64)
        # Older states do not tell; without a discount they are the numbers.
        squared = state.get("squared_weights", state["counts"])
        self._squared_weights = np.array(squared, np.float64)
        self.squares = float(state["squares"])
        self.origin = None if state["origin"] is None else float(state["origin"])


class RewardedImages(RewardSums):
    """Sums of rewards per distinct image, and its features: the past of a Gaussian model.

    Exact until `capacity` distinct images were rewarded. Past it, the one rewarded least recently
    is merged into its nearest neighbour: its rewards stay, in the place of the other.
    """

    def __init__(self, capacity: int, num_ids: int = 0) -> None:
        """Start empty.

        Args:
            capacity: Most images held, at least 2.
            num_ids: Columns at the end of the features that are ids: an image whose ids are others
                is farther than any whose ids are the same.
        """
        super().__init__(capacity)
        self._features, self._num_ids = np.zeros((0, 0)), num_ids

    @property
    def features(self) -> Array:
        """Of the n images, (n, d)."""
        return self._features[: len(self)]

    def add_image(self, key: bytes, features: Array, reward: float, weight: float = 1.0) -> None:
        """Take in a reward of an image with `features` (d,), counted `weight` times."""
        row = self.add(key, reward, weight)
        if len(self._features) < len(self._counts):
            grown = np.zeros((len(self._counts), len(features)))
            grown[: len(self._features)] = self._features if len(self._features) else 0.0
            self._features = grown
        self._features[row] = features

    def _release(self, row: int) -> None:
        differences = self._features - self._features[row]
        pixels, ids = np.split(differences, [differences.shape[1] - self._num_ids], axis=1)
        distances = np.square(pixels).sum(axis=1)
        distances[ids.any(axis=1)] += distances.max() + 1
        distances[row] = np.inf
        nearest = int(distances.argmin())
        self._counts[nearest] += self._counts[row]
        self._sums[nearest] += self._sums[row]
        self._squared_weights[nearest] += self._squared_weights[row]

    def state_dict(self) -> State:
        """That of the sums, and the features."""
        return super().state_dict() | {"features": self.features.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._features = np.array(state["features"], np.float64)
