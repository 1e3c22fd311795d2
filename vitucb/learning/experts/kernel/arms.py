"""The arms of a round as a kernel sees them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Arms:
    """Images that tell themselves apart.

    Attributes:
        keys: What tells them apart.
        rows: Frozen features, (n, d).
        phi: Scaled kernel features, (n, m).
        effects: Prior variances of what each has to itself, (n,).
    """

    keys: list[bytes]
    rows: Array
    phi: Array
    effects: Array

    def only(self, arm: int) -> Arms:
        """One of them."""
        one = slice(arm, arm + 1)
        return Arms(self.keys[one], self.rows[one], self.phi[one], self.effects[one])
