"""How a batch of the replay is split among trainers: the seam for training by several processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn


class BatchSplit(Protocol):
    """Trainers with the same history, who share the work of a batch."""

    @property
    def size(self) -> int:
        """Number of trainers, with this one."""
        ...

    def share(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """The part of a batch that is this trainer's; the parts in order are the batch."""
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """Rows (b, d) of the whole batch from those (n, d) of every part."""
        ...

    def add_up(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        """Replace every `.grad` by its sum over the trainers; returns the sum of the losses."""
        ...


class WholeBatch:
    """One trainer alone: its part is the batch."""

    size = 1

    def share(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """All slots."""
        return slots

    def gather(self, rows: Tensor) -> Tensor:
        """The rows as they are."""
        return rows

    def add_up(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        """The loss as it is."""
        return loss
