"""What a head for labels reads: frozen features as they are, or features made from them.

Features may be fitted to the images offered so far, and anew when there are more: the head then
starts again from all that is remembered.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vitucb.learning.experts.expert import Array, Offer
from vitucb.types import State


class LabelInputs(Protocol):
    """From frozen features to inputs of a head."""

    @property
    def dim(self) -> int:
        """Number of inputs m, as of the last `refit`."""
        ...

    @property
    def is_due(self) -> bool:
        """Whether they should be fitted anew."""
        ...

    def see(self, offer: Offer) -> None:
        """Take note of the image of a round."""
        ...

    def refit(self) -> None:
        """Fit them to the images seen; inputs of before mean something else from now on."""
        ...

    def of(self, features: Array) -> Array:
        """Inputs (m,) of the frozen features (d,) of one image."""
        ...

    def of_all(
        self, features: NDArray[np.float32], rounds: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Inputs (n, m) of the observations of a history.

        Args:
            features: Frozen features (n, d).
            rounds: When each observation was made, (n,); tells replaced ones apart.
        """
        ...

    def state_dict(self) -> State:
        """Everything needed to continue bit for bit."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        ...


class FrozenInputs:
    """Frozen features as they are."""

    is_due = False

    def __init__(self, num_features: int) -> None:
        """For features (d,)."""
        self.dim = num_features

    def see(self, offer: Offer) -> None:
        """Nothing to note."""

    def refit(self) -> None:
        """Nothing to fit."""

    def of(self, features: Array) -> Array:
        """The features."""
        return features

    def of_all(
        self, features: NDArray[np.float32], rounds: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """The features."""
        return features

    def state_dict(self) -> State:
        """Nothing."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Nothing to restore."""
