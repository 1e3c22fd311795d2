"""How often images come again: offers per distinct image, in bounded memory.

Past a bound only images whose hash ends in b zero bits are followed, a random 2^-b of all; b grows
as needed. That is the sampling of Gibbons, "Distinct sampling for highly-accurate answers to
distinct values queries and event reports", VLDB 2001: every image is followed from its first offer
on or never.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from vitucb.learning.image_memory import image_key, pack_keys, unpack_keys
from vitucb.types import State


class Recurrence:
    """Counts the offers of images and the distinct images among them."""

    def __init__(self, capacity: int = 50_000) -> None:
        """Start with none.

        Args:
            capacity: Most distinct images followed; exact up to there.
        """
        self._capacity = capacity
        self._bits = 0
        self._offers: dict[bytes, int] = {}

    def add(self, images: Iterable[NDArray[np.uint8]]) -> None:
        """Count an offer of each of the images, uint8 (H, W, C)."""
        for image in images:
            key = image_key(image)
            if _zero_bits(key) >= self._bits:
                self._offers[key] = self._offers.get(key, 0) + 1
        while len(self._offers) > self._capacity:
            self._bits += 1
            kept = {k: n for k, n in self._offers.items() if _zero_bits(k) >= self._bits}
            self._offers = kept

    @property
    def offers_per_image(self) -> float:
        """Mean number of offers of a distinct image; 0 before the first."""
        return sum(self._offers.values()) / len(self._offers) if self._offers else 0.0

    @property
    def distinct_images(self) -> int:
        """Number of distinct images; an estimate past the capacity."""
        return len(self._offers) << self._bits

    def state_dict(self) -> State:
        """Counts of the images followed."""
        return {
            "bits": self._bits,
            "keys": pack_keys(self._offers),
            "offers": np.array(list(self._offers.values()), np.int64),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._bits = int(state["bits"])
        counts = np.asarray(state["offers"], np.int64).tolist()
        self._offers = dict(zip(unpack_keys(state["keys"]), counts, strict=True))


def _zero_bits(key: bytes) -> int:
    """Number of zero bits at the end of a hash."""
    number = int.from_bytes(key, "big")
    return (number & -number).bit_length() - 1 if number else 8 * len(key)
