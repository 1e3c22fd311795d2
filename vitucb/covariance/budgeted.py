"""Exact up to a stated budget of memory, then another covariance: `exact` by name."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from vitucb.covariance.base import FeatureCovariance, State
from vitucb.covariance.dense import DenseCovariance
from vitucb.covariance.dual import DualCovariance
from vitucb.covariance.scored import Scored

_logger = logging.getLogger(__name__)

# Up to this dimension the p x p form takes over, exactly, once it is the smaller one.
DENSE_DIM = 4096
_LEAST_CAPACITY = 256
DEFAULT_BUDGET = 24 * 2**20
"""At the embedded ViT 127 rows, past which they would cost a tenth of a round."""


def row_capacity(dim: int, itemsize: int, budget_bytes: int) -> int:
    """How many rows n fit in the budget: n p itemsize + 8 n^2 <= budget."""
    linear = dim * itemsize / 16
    return int(math.sqrt(linear * linear + budget_bytes / 8) - linear)


class BudgetedCovariance(FeatureCovariance):
    """Rows in the dual form until they cost more than they should, then a successor.

    Up to p = 4,096 the successor is the dense form, once n reaches p: exact as before, and
    smaller. Beyond, it is the sketch `overflow`, once the rows fill `budget_bytes`; all rows
    enter it, in order and with their weights, and its error is that of the sketch (see its
    `interval`). The handover is logged.

    Attributes:
        budget_bytes: Memory the rows and their small algebra may take.
        current: The covariance in charge.
    """

    def __init__(
        self,
        dim: int,
        *,
        ridge: float = 1.0,
        rank: int | None = None,
        seed: int = 0,
        dtype: torch.dtype | None = None,
        budget_bytes: int = DEFAULT_BUDGET,
        overflow: str = "low-rank",
    ) -> None:
        """Start exact.

        Args:
            dim: Number of features p.
            ridge: Ridge of A.
            rank: Of the successor, if it is a sketch.
            seed: Of the successor, if it is a sketch.
            dtype: Only what the first features fail to say; rows take the type of the first
                features.
            budget_bytes: Memory for rows and small algebra.
            overflow: Name of the successor for p > 4,096.

        Raises:
            ValueError: If `dim`, `ridge` or `rank` is not usable, or the budget holds fewer than
                two rows.
        """
        super().__init__(dim, ridge=ridge)
        if row_capacity(dim, 8, budget_bytes) < 2:
            raise ValueError(
                f"budget_bytes {budget_bytes} holds no two rows of dim {dim}; raise "
                "agent.covariance.budget_mib or choose the covariance low-rank"
            )
        self.budget_bytes = budget_bytes
        self._successor_options = (overflow, rank, seed)
        self.current: FeatureCovariance = DualCovariance(dim, ridge=ridge)
        if dim > DENSE_DIM:
            self._successor()  # What it refuses is refused now, and not in the middle of a run.

    @property
    def is_exact(self) -> bool:
        """Whether the quadratic forms are those of the exact A."""
        return isinstance(self.current, (DualCovariance, DenseCovariance))

    @property
    def memory_bytes(self) -> int:
        """Bytes in use by the covariance in charge."""
        return self.current.memory_bytes

    def _capacity(self, itemsize: int) -> int:
        fitting = row_capacity(self.dim, itemsize, self.budget_bytes)
        if self.dim <= DENSE_DIM:
            return min(fitting, max(self.dim, _LEAST_CAPACITY))
        return fitting

    @property
    def log_det(self) -> float:
        """Information gain log det(A / ridge), nats."""
        return self.current.log_det

    def _score(self, phi: Tensor) -> Scored:
        return self.current._score(phi)

    def _cov(self, scored: Scored) -> Tensor:
        return self.current._cov(scored)

    def _see_others(self, scored: Scored, index: int) -> None:
        self.current._see_others(scored, index)

    def _append(self, scored: Scored, weights: Tensor) -> None:
        if self._must_hand_over(scored):
            self._hand_over()
            scored = self.current._score(scored.phi)
        self.current._append(scored, weights)
        self.current.count += len(weights)

    def _must_hand_over(self, scored: Scored) -> bool:
        if not isinstance(self.current, DualCovariance):
            return False
        capacity = self._capacity(self.current.stored_type(scored.phi).itemsize)
        return self.current.size + len(scored.phi) > capacity

    def _hand_over(self) -> None:
        rows = self.current
        assert isinstance(rows, DualCovariance)
        self.current = self._successor()
        for phi, weights in rows.row_chunks():
            self.current.update(phi, weights)
        self.current.count = rows.count
        _logger.info(
            "covariance: %s takes over from %d rows of dim %d",
            type(self.current).__name__,
            rows.size,
            self.dim,
        )

    def _successor(self) -> FeatureCovariance:
        if self.dim <= DENSE_DIM:
            return DenseCovariance(self.dim, ridge=self.ridge)
        from vitucb.covariance.factory import make_covariance

        name, rank, seed = self._successor_options
        return make_covariance(name, self.dim, ridge=self.ridge, rank=rank, seed=seed)

    def _reset(self) -> None:
        self.current = DualCovariance(self.dim, ridge=self.ridge)

    def interval(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper value between which the true phi' A^-1 phi lies."""
        return self.current.interval(phi)

    def certificate(self, phi: Tensor) -> dict[str, float]:
        """What the covariance in charge knows about its error."""
        return self.current.certificate(phi)

    def solve(self, v: Tensor) -> Tensor:
        """A^-1 v for v (..., p): float64 (..., p)."""
        return self.current.solve(v)

    def set_ridge(self, ridge: float) -> None:
        """Change the ridge of A while it is exact; the observations stay."""
        assert isinstance(self.current, (DualCovariance, DenseCovariance))
        self.ridge = ridge
        self._scored = None
        self.current.set_ridge(ridge)

    def spectrum(self) -> Tensor:
        """Eigenvalues of the weighted Phi' Phi, some of them 0, while it is exact, float64."""
        assert isinstance(self.current, (DualCovariance, DenseCovariance))
        return self.current.spectrum()

    def discount(self, gamma: float) -> None:
        """Forget: A <- gamma A + (1 - gamma) ridge I."""
        self._scored = None
        self.current.discount(gamma)

    def state_dict(self) -> State:
        """Which covariance is in charge, and its state."""
        inner = {f"current.{key}": value for key, value in self.current.state_dict().items()}
        return {"has_rows": isinstance(self.current, DualCovariance), **inner, **self._counters()}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._load_counters(state)
        self.current = (
            DualCovariance(self.dim, ridge=self.ridge) if state["has_rows"] else self._successor()
        )
        prefix = "current."
        inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        self.current.load_state_dict(inner)
