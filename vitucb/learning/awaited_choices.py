"""Choices whose reward has not come yet: bounded, and known again when it does."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from vitucb.learning.image_memory import pack_keys, unpack_keys
from vitucb.types import State

Array = NDArray[np.float64]


class AwaitedChoices:
    """The latest choices that wait for a reward.

    Attributes:
        total: Choices ever added.
        has_lost: Whether one was dropped for want of room since this was last set to False.
    """

    def __init__(self, capacity: int, discount: float = 1.0) -> None:
        """Start with none.

        Args:
            capacity: Most choices held; past it the oldest counts as lost.
            discount: Weight of a choice after one more, in (0, 1].
        """
        self._capacity, self._discount = capacity, discount
        self._choices: OrderedDict[int, tuple[bytes, Array]] = OrderedDict()
        self._numbers: dict[bytes, list[int]] = {}
        self.total = 0
        self.has_lost = False

    def __len__(self) -> int:
        return len(self._choices)

    @property
    def images(self) -> list[tuple[bytes, Array]]:
        """Key and features (d,) of every choice, the oldest first."""
        return list(self._choices.values())

    @property
    def weights(self) -> list[float]:
        """What every choice counts for by now, the oldest first; 1 without a discount."""
        return [self._weight(number) for number in self._choices]

    def _weight(self, number: int) -> float:
        return self._discount ** (self.total - 1 - number)

    def count(self, key: bytes) -> float:
        """How many choices of this image wait, each at its weight."""
        numbers = self._numbers.get(key, ())
        if self._discount == 1:  # where rewards are lost thousands may wait, and every arm asks
            return float(len(numbers))
        return sum(map(self._weight, numbers), 0.0)

    def add(self, key: bytes, features: Array) -> None:
        """A choice of an image with `features` (d,) was made."""
        self._choices[self.total] = (key, features.copy())
        self._numbers.setdefault(key, []).append(self.total)
        self.total += 1
        if len(self._choices) > self._capacity:
            self._remove(next(iter(self._choices)))
            self.has_lost = True

    def take(self, key: bytes, age: int) -> bool:
        """Whether a choice of this image, `age` rounds ago, waited; it no longer does."""
        number = self.total - 1 - age
        found = number in self._choices and self._choices[number][0] == key
        if found:
            self._remove(number)
        return found

    def _remove(self, number: int) -> None:
        key, _ = self._choices.pop(number)
        self._numbers[key].remove(number)
        if not self._numbers[key]:
            del self._numbers[key]

    def state_dict(self) -> State:
        """Numbers, keys and features of the choices, and the counts."""
        images = self.images
        return {
            "numbers": list(self._choices),
            "keys": pack_keys(key for key, _ in images),
            "features": np.array([row for _, row in images]),
            "total": self.total,
            "has_lost": self.has_lost,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        keys, rows = unpack_keys(state["keys"]), np.asarray(state["features"], np.float64)
        images = [(key, row.copy()) for key, row in zip(keys, rows, strict=True)]
        self._choices = OrderedDict(zip(map(int, state["numbers"]), images, strict=True))
        self._numbers = {}
        for number, (key, _) in self._choices.items():
            self._numbers.setdefault(key, []).append(number)
        self.total, self.has_lost = int(state["total"]), bool(state["has_lost"])
