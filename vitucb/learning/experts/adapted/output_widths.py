"""Confidence widths of linear outputs: one covariance of features for every output.

Where K labels share an image nothing that is learnt of one label is known of another, so each has
the features of the rounds that chose it (disjoint models, Li et al., "A contextual-bandit approach
to personalized news article recommendation", 2010). Where every arm has its image there is one
output, and one covariance. Features get a constant, as the outputs have a bias.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitucb.covariance import FeatureCovariance
from vitucb.types import State


class OutputWidths:
    """Widths sqrt(x' A_k^-1 x) of every output k for features x = [h, 1]."""

    def __init__(
        self,
        make: Callable[[int], FeatureCovariance],
        dim: int,
        num_outputs: int,
        discount: float = 1.0,
    ) -> None:
        """Start with nothing counted.

        Args:
            make: An empty covariance of so many features, float64.
            dim: Number of features d of h.
            num_outputs: K.
            discount: Weight of an observation after one more choice.
        """
        self._covariances = [make(dim + 1) for _ in range(num_outputs)]
        self._discount = discount

    def __call__(self, features: Tensor) -> NDArray[np.float64]:
        """Widths (n, K) for features h (n, d), in units of the noise."""
        x = _with_constant(features)
        return np.stack([covariance.width_array(x) for covariance in self._covariances], axis=1)

    def add(self, feature: Tensor, output: int) -> None:
        """Count a choice of `output` at feature h (d,)."""
        if self._discount < 1:
            for covariance in self._covariances:
                covariance.discount(self._discount)
        self._covariances[output].update(_with_constant(feature[None])[0])

    def state_dict(self) -> State:
        """Those of the covariances."""
        return {"covariances": [c.state_dict() for c in self._covariances]}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        for covariance, own in zip(self._covariances, state["covariances"], strict=True):
            covariance.load_state_dict(own)


def _with_constant(features: Tensor) -> Tensor:
    """[h, 1] (n, d + 1) of features h (n, d)."""
    return torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
