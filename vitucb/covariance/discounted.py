"""The two matrices of a discounted linear bandit.

Paper: Russac, Vernade and Cappe, "Weighted linear bandits for non-stationary environments",
NeurIPS 2019 (D-LinUCB) - https://arxiv.org/abs/1909.09146. The estimate weighs an observation of
age k by gamma^k, so its variance is V^-1 V2 V^-1 with V = sum gamma^k phi phi' + ridge I and V2 =
sum gamma^2k phi phi' + ridge I: smaller than V^-1, because what counts less is also less noisy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vitucb.covariance.base import State
from vitucb.covariance.dense import DenseCovariance
from vitucb.covariance.scored import Scored


class DiscountedCovariance(DenseCovariance):
    """V and V2; the quadratic form is phi' V^-1 V2 V^-1 phi, that of `dense` without discounts.

    `solve` is V^-1 v, what the estimate needs, and `log_det` is that of V.
    """

    def _start(self, device: torch.device) -> None:
        super()._start(device)
        self._squared = self._matrix.clone()

    @property
    def memory_bytes(self) -> int:
        """Bytes of V, its inverse and V2."""
        return 24 * self.dim * self.dim

    def _score(self, phi: Tensor) -> Scored:
        scored = super()._score(phi)
        scored.squares, scored.told = self._cov(scored).diagonal().clamp_min(0.0), None
        return scored

    def _cov(self, scored: Scored) -> Tensor:
        assert scored.solved is not None
        return scored.solved.mT @ self._squared @ scored.solved

    def _add(self, phi: Tensor, weights: Tensor) -> None:
        super()._add(phi, weights)
        self._squared.addmm_((phi * weights[:, None].square()).mT, phi)

    def set_ridge(self, ridge: float) -> None:
        """Change the ridge of V and V2; the observations stay."""
        self._squared.diagonal().add_(ridge - self.ridge)
        super().set_ridge(ridge)

    def discount(self, gamma: float) -> None:
        """Let a round pass: weights times gamma in V and gamma^2 in V2; the ridges stay."""
        super().discount(gamma)
        self._squared.mul_(gamma**2).diagonal().add_((1.0 - gamma**2) * self.ridge)

    def state_dict(self) -> State:
        """That of `dense`, and V2."""
        return super().state_dict() | {"squared": self._squared.clone()}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._squared = state["squared"].clone()
