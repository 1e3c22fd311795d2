"""How many images go through a network behind a cache, whether or not the run was ever stopped.

A cache is not saved: a run that goes on makes anew what was held. That is the price of the stop and
not of the agent, so what is counted follows from keys alone, those that the cache of a run that
never stopped would hold. They are part of the state: 16 bytes an image.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from vitucb.learning.image_memory import pack_keys, unpack_keys
from vitucb.types import State


class PassCounter:
    """Counts the images that a cache, which keeps the latest used, does not hold.

    Attributes:
        total: Their number so far.
    """

    def __init__(self) -> None:
        """Start with nothing held."""
        self.total = 0
        self._held: OrderedDict[bytes, None] = OrderedDict()

    def add(self, keys: Iterable[bytes], capacity: int) -> None:
        """Look up images by their keys of 16 bytes, as `ImageCache` does.

        Args:
            keys: Of the images that are asked for together; each is made once.
            capacity: How many images the cache holds at most.
        """
        wanted = dict.fromkeys(keys)
        missing = [key for key in wanted if key not in self._held]
        self.total += len(missing)
        for key in wanted:
            if key in self._held:
                self._held.move_to_end(key)
        for key in missing if capacity else ():
            if len(self._held) == capacity:
                self._held.popitem(last=False)
            self._held[key] = None

    def state_dict(self) -> State:
        """The total, and the keys of what is held, the latest used last."""
        return {"total": self.total, "keys": pack_keys(self._held)}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self.total = int(state["total"])
        self._held = OrderedDict.fromkeys(unpack_keys(state["keys"]))
