"""The p x p covariance in float64: the sum A, its inverse P by rank-1 updates, and rebuilds."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from vitucb.covariance.base import FeatureCovariance, State
from vitucb.covariance.guards import check_gamma, limit_weights
from vitucb.covariance.scored import Scored

_logger = logging.getLogger(__name__)

MAX_DIM = 16_384
_REBUILD_EVERY = 1024
_PROBE_EVERY = 256
_PROBE_TOLERANCE = 1e-8
# A factorisation of this size takes a second or so.
_LARGE = 2048
# Squared pivots of A in ridges are 1 at least, up to this much of rounding.
_LEAST_PIVOT = 0.999


class DenseCovariance(FeatureCovariance):
    """A and P = A^-1 as (p, p) float64 matrices.

    An update is P <- P - (P phi)(P phi)' / (1/w + s^2), O(p^2) because P phi is already known
    from the score. P drifts by rounding, A does not: every 1,024 updates, and whenever a probe |P
    A v - v| says so, P is computed afresh from A by Cholesky and the drift is logged.
    """

    def __init__(
        self,
        dim: int,
        *,
        ridge: float = 1.0,
        rank: int | None = None,
        seed: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Start at A = ridge I.

        Args:
            dim: Number of features p.
            ridge: Ridge of A.
            rank: Not used.
            seed: Not used.
            dtype: Not used; everything is float64.

        Raises:
            ValueError: If p is so large that p x p matrices are hopeless.
        """
        super().__init__(dim, ridge=ridge)
        if dim > MAX_DIM:
            raise ValueError(
                f"a dense covariance of dim {dim} needs {dim * dim * 16 / 2**30:.0f} GiB; "
                "use 'exact' or 'low-rank'"
            )
        self._has_warned = False
        self._start(torch.device("cpu"))

    def _start(self, device: torch.device) -> None:
        eye = torch.eye(self.dim, dtype=torch.float64, device=device)
        self._matrix, self._inverse = eye * self.ridge, eye / self.ridge
        self._log_det = 0.0
        self._since_rebuild = 0

    @property
    def memory_bytes(self) -> int:
        """Bytes of A and P."""
        return 16 * self.dim * self.dim

    @property
    def log_det(self) -> float:
        """Information gain log det(A / ridge), nats."""
        return self._log_det

    def _score(self, phi: Tensor) -> Scored:
        if self.count == 0 and phi.device != self._matrix.device:
            self._start(phi.device)
        phi64 = phi.to(self._matrix.device, torch.float64)
        solved = (phi64 @ self._inverse).mT
        squares = (phi64 * solved.mT).sum(1)
        scored = Scored(phi, squares, solved=solved)
        if not (scored.tell()[0].numpy() < 0).any():
            return scored
        # P lost definiteness to rounding; A has not.
        self._invert()
        solved = (phi64 @ self._inverse).mT
        return Scored(phi, (phi64 * solved.mT).sum(1).clamp_min(0.0), solved=solved)

    def _cov(self, scored: Scored) -> Tensor:
        assert scored.solved is not None
        cov = scored.phi.to(scored.solved) @ scored.solved
        return (cov + cov.mT) / 2

    def _append(self, scored: Scored, weights: Tensor) -> None:
        assert scored.solved is not None
        phi = scored.phi.to(self._matrix)
        squares = (phi * scored.solved.mT).sum(1)
        weights = limit_weights(weights.to(phi), phi.square().sum(1), squares, self.ridge)
        self._add(phi, weights)
        if len(phi) > self.dim // 8 + 1:
            self._invert()
        else:
            for row, weight in zip(phi, weights.tolist(), strict=True):
                self._rank_one(self._inverse @ row, row, weight)
        self._since_rebuild += len(phi)
        self._check_drift()

    def _add(self, phi: Tensor, weights: Tensor) -> None:
        self._matrix.addmm_((phi * weights[:, None]).mT, phi)

    def _rank_one(self, solved: Tensor, row: Tensor, weight: float) -> None:
        square = float(row @ solved)
        self._inverse.addr_(solved, solved, alpha=-weight / (1.0 + weight * square))
        self._log_det += math.log1p(weight * square)

    def _check_drift(self) -> None:
        must_probe = self._since_rebuild % _PROBE_EVERY == 0
        if self._since_rebuild >= _REBUILD_EVERY or (
            must_probe and self._drift() > _PROBE_TOLERANCE
        ):
            self._invert()

    def _drift(self) -> float:
        probe = self._matrix.sum(0)
        probe = probe / probe.norm()
        return float((self._inverse @ (self._matrix @ probe) - probe).norm())

    def _invert(self) -> None:
        """P and log det from A."""
        if _logger.isEnabledFor(logging.DEBUG):
            _logger.debug("dense covariance: drift %.1e before the rebuild", self._drift())
        lower, failed = torch.linalg.cholesky_ex(self._matrix)
        if int(failed) or float(lower.diagonal().min()) ** 2 < _LEAST_PIVOT * self.ridge:
            self._invert_guarded()
        else:
            # LAPACK answers in columns; products with those are fifty times slower.
            self._inverse = torch.cholesky_inverse(lower).contiguous()
            log_det = float(2.0 * lower.diagonal().log().sum())
            self._log_det = log_det - self.dim * math.log(self.ridge)
        self._since_rebuild = 0

    def _invert_guarded(self) -> None:
        """The same where rounding took directions below the ridge, under which none of A is."""
        values, vectors = torch.linalg.eigh(self._matrix)
        values = values.clamp_min(self.ridge)
        self._inverse = (vectors / values) @ vectors.mT
        self._log_det = float((values / self.ridge).log().sum())

    def _reset(self) -> None:
        self._start(self._matrix.device)

    def set_ridge(self, ridge: float) -> None:
        """Change the ridge of A; the observations stay."""
        if ridge != self.ridge:
            self._matrix.diagonal().add_(ridge - self.ridge)
            self.ridge = ridge
            self._scored = None
            self._invert()

    def spectrum(self) -> Tensor:
        """Eigenvalues of sum_i w_i phi_i phi_i', float64 (p,), ascending."""
        values: Tensor = torch.linalg.eigvalsh(self._matrix)
        return values - self.ridge

    def solve(self, v: Tensor) -> Tensor:
        """A^-1 v for v (..., p): float64 (..., p)."""
        return (self._as_rows(v).to(self._inverse) @ self._inverse).view(v.shape)

    def discount(self, gamma: float) -> None:
        """Forget: A <- gamma A + (1 - gamma) ridge I; costs one factorisation."""
        if self.dim > _LARGE and not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "discounting a dense covariance of dim %d factorises it anew in every round, which "
                "takes long; the covariance 'exact' does not",
                self.dim,
            )
        self._matrix.mul_(check_gamma(gamma))
        self._matrix.diagonal().add_((1.0 - gamma) * self.ridge)
        self._scored = None
        self._invert()

    def state_dict(self) -> State:
        """A, P, log det and the counters."""
        return {
            "matrix": self._matrix.clone(),
            "inverse": self._inverse.clone(),
            "log_det": self._log_det,
            "since_rebuild": self._since_rebuild,
            **self._counters(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._load_counters(state)
        self._matrix = state["matrix"].clone()
        self._inverse = state["inverse"].clone()
        self._log_det = float(state["log_det"])
        self._since_rebuild = int(state["since_rebuild"])
