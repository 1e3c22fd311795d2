"""Images that were offered, known again by their pixels.

Pixels are free: a memory of what was offered tells how images lie in the feature space long before
there is a reward.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from vitucb.types import State

Array = NDArray[np.float64]
KEY_BYTES = 16


def image_key(image: NDArray[np.uint8]) -> bytes:
    """What tells one image uint8 (H, W, C) from another: a hash of its shape and pixels."""
    digest = hashlib.blake2b(f"{image.shape}".encode(), digest_size=KEY_BYTES)
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


class ImageMemory:
    """Features of the latest distinct images, at most `capacity` of them."""

    def __init__(self, capacity: int) -> None:
        """Start empty.

        Args:
            capacity: Most images held; past it the one not seen for longest goes.
        """
        self._capacity = capacity
        self._rows: OrderedDict[bytes, Array] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, keys: list[bytes], features: Array) -> None:
        """Take in images by their keys and features (n, d); those known become the latest."""
        for key, row in zip(keys, features, strict=True):
            if key in self._rows:
                self._rows.move_to_end(key)
            else:
                self._rows[key] = row.copy()
        while len(self._rows) > self._capacity:
            self._rows.popitem(last=False)

    @property
    def features(self) -> Array:
        """Of all images held, float64 (n, d), the latest last."""
        return np.array(list(self._rows.values()))

    def state_dict(self) -> State:
        """Keys and features, the latest last."""
        return {"keys": pack_keys(self._rows), "features": self.features}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        rows = zip(unpack_keys(state["keys"]), np.asarray(state["features"]), strict=True)
        self._rows = OrderedDict((key, row.copy()) for key, row in rows)


def pack_keys(keys: Iterable[bytes]) -> NDArray[np.uint8]:
    """Keys as uint8 (n, 16), for a state."""
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES).copy()


def unpack_keys(packed: object) -> list[bytes]:
    """Undo `pack_keys`."""
    return [row.tobytes() for row in np.asarray(packed, np.uint8).reshape(-1, KEY_BYTES)]
