"""Baseline: the diagonal of A only. Its bonuses are many times too wide, and badly ranked."""

from __future__ import annotations

import torch
from torch import Tensor

from vitucb.covariance.base import FeatureCovariance, State
from vitucb.covariance.guards import check_gamma
from vitucb.covariance.scored import Scored


class DiagonalCovariance(FeatureCovariance):
    """D = ridge + sum_i w_i phi_i^2, and phi' diag(D)^-1 phi, as in NeuralUCB's released code."""

    def __init__(
        self,
        dim: int,
        *,
        ridge: float = 1.0,
        rank: int | None = None,
        seed: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Start at D = ridge; `rank`, `seed` and `dtype` are not used."""
        super().__init__(dim, ridge=ridge)
        self._diagonal = torch.full((dim,), self.ridge, dtype=torch.float64)

    @property
    def memory_bytes(self) -> int:
        """Bytes of D."""
        return 8 * self.dim

    @property
    def log_det(self) -> float:
        """Logarithm of det(D / ridge), nats."""
        return float((self._diagonal / self.ridge).log().sum())

    def _score(self, phi: Tensor) -> Scored:
        if phi.device != self._diagonal.device:
            self._diagonal = self._diagonal.to(phi.device)
        squares: Tensor = phi.double().square() @ self._diagonal.reciprocal()
        return Scored(phi, squares)

    def _cov(self, scored: Scored) -> Tensor:
        phi = scored.phi.double()
        return (phi / self._diagonal) @ phi.mT

    def _append(self, scored: Scored, weights: Tensor) -> None:
        self._diagonal += weights.to(self._diagonal) @ scored.phi.double().square()

    def _reset(self) -> None:
        self._diagonal.fill_(self.ridge)

    def interval(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of the exact phi' A^-1 phi: float64 (...), float64 (...).

        A is at most ridge + tr D - p ridge times I and at least ridge I; and no x' A^-1 x is below
        x_j^2 / A_jj, for any j.
        """
        squares = phi.double().square()
        norms, largest = squares.sum(-1), self.ridge + float((self._diagonal - self.ridge).sum())
        diagonal = self._diagonal.to(squares.device)
        return torch.maximum(norms / largest, (squares / diagonal).amax(-1)), norms / self.ridge

    def solve(self, v: Tensor) -> Tensor:
        """D^-1 v for v (..., p): float64 (..., p)."""
        return (self._as_rows(v).to(self._diagonal) / self._diagonal).view(v.shape)

    def discount(self, gamma: float) -> None:
        """Forget: D <- gamma D + (1 - gamma) ridge."""
        self._diagonal.mul_(check_gamma(gamma)).add_((1.0 - gamma) * self.ridge)
        self._scored = None

    def state_dict(self) -> State:
        """D and the counters."""
        return {"diagonal": self._diagonal.clone(), **self._counters()}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._load_counters(state)
        self._diagonal = state["diagonal"].clone()
