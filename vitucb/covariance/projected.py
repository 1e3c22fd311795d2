"""A covariance of randomly projected features, with the bias of the projection taken out.

Projecting to d dimensions takes away part of what a query has outside the span of the
observations, as if the ridge were larger. The quadratic form at ridge r behaves like the exact
one at ridge k with r = k (1 - d_eff(k) / d), d_eff = tr K (K + r I)^-1 of the projected K, so r
is solved for k = ridge. (The deterministic equivalent of sketched ridge regression, e.g.
https://arxiv.org/abs/1910.02373; for CountSketch it is a heuristic that measurements support, not
a theorem.) Integrated over the ridge, that gives the information gain as well,

    log det(K / ridge + I) = log det(K_S / r + I) + d_eff + d log(1 - d_eff / d).
"""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from vitucb.covariance.base import FeatureCovariance, State, information_gain
from vitucb.covariance.budgeted import DENSE_DIM, BudgetedCovariance
from vitucb.covariance.countsketch import CountSketch
from vitucb.covariance.dual import DualCovariance
from vitucb.covariance.frequent_directions import FrequentDirections
from vitucb.covariance.ridge_correction import _LEAST_SHARE, debiased_ridge, effective_dimension
from vitucb.covariance.scored import Scored

_logger = logging.getLogger(__name__)

# d >= 8 d_eff keeps widths within about 4 %; below that a warning is due.
_ROOM = 8.0
# Below d = 2 d_eff the correction of the ridge is not to be trusted.
_LEAST_ROOM = 2.0
# Changes that are no observations call for a correction where they move log det by as much.
_SETTLED = 0.25
WINDOW = 16


class ProjectedCovariance(FeatureCovariance):
    """An `inner` covariance of S phi in place of phi; features may also come already projected.

    Attributes:
        projection: The map S, to project features as they are made.
        inner: Covariance of the projected features, at the corrected ridge.
        effective_dimension: Read off the sketch at the last correction.
    """

    def __init__(
        self,
        dim: int,
        inner: FrequentDirections | BudgetedCovariance,
        *,
        ridge: float = 1.0,
        seed: int = 0,
    ) -> None:
        """Project p features to as many as `inner` has."""
        super().__init__(dim, ridge=ridge)
        self.projection = CountSketch(dim, inner.dim, seed=seed)
        self.inner = inner
        self._seed = seed
        self._start()

    def _start(self) -> None:
        self.effective_dimension = 0.0
        self._log_det = 0.0
        self._corrected_at = 0.0  # log det at the last correction.
        self._next_correction = 8
        self._has_warned = False
        self._window: list[Tensor] = []

    @property
    def sketch_dim(self) -> int:
        """Dimension d of the projected features."""
        return self.projection.sketch_dim

    @property
    def memory_bytes(self) -> int:
        """Bytes of the inner covariance, the projection and the window of recent rows."""
        window = sum(row.numel() * row.element_size() for row in self._window)
        return self.inner.memory_bytes + self.projection.memory_bytes + window

    @property
    def log_det(self) -> float:
        """Information gain log det(A / ridge), estimated as sum_t log(1 + w_t s_t^2), nats."""
        return self._log_det

    def _as_rows(self, phi: Tensor) -> Tensor:
        if phi.shape[-1:] == (self.sketch_dim,):
            return phi.detach().reshape(-1, self.sketch_dim)
        return super()._as_rows(phi)

    def _score(self, phi: Tensor) -> Scored:
        scored = self.inner._score(self._projected(phi))
        scored.source = phi if phi.shape[1] == self.dim else None
        return scored

    def _cov(self, scored: Scored) -> Tensor:
        return self.inner._cov(scored)

    def _see_others(self, scored: Scored, index: int) -> None:
        self.inner._see_others(scored, index)

    def _append(self, scored: Scored, weights: Tensor) -> None:
        self._log_det += information_gain(self.inner, scored, weights)
        self.inner._append(scored, weights)
        self.inner.count += len(weights)
        if scored.source is not None:
            rows = [row.clone() for row in scored.source[-WINDOW:]]
            self._window = [*self._window, *rows][-WINDOW:]
        if self.inner.count >= self._next_correction:
            self._correct_ridge()

    def _correct_ridge(self) -> None:
        """Every time the observations have grown by a quarter: solve for the inner ridge again."""
        self._next_correction = self.inner.count + max(8, self.inner.count // 4)
        self._corrected_at = self._log_det
        if self.projection.is_isometry:
            return
        spectrum = self.inner.spectrum().clamp_min(0.0)
        ridge = debiased_ridge(spectrum, self.ridge, self.sketch_dim)
        self.effective_dimension = effective_dimension(spectrum, ridge)
        self.inner.set_ridge(ridge)
        if self.sketch_dim < _ROOM * self.effective_dimension and not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "sketch dimension %d is less than %.0f times the effective dimension %.0f; "
                "enlarge the sketch or the ridge",
                self.sketch_dim,
                _ROOM,
                self.effective_dimension,
            )

    @property
    def tolerance(self) -> float:
        """Three standard deviations of the relative error that projecting puts on one quad form."""
        if self.projection.is_isometry:
            return 0.0
        left = max(self.sketch_dim - self.effective_dimension, 1.0)
        return min(3.0 * math.sqrt(2.0 / left), 1.0)

    def interval(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of the exact phi' A^-1 phi: the inner interval, widened by `tolerance`.

        The inner one is certain; the projection's part holds with high probability only. Of a
        sketch too small for the data, of less than twice the effective dimension, there is nothing
        to be had but 0 and |phi|^2 / ridge.
        """
        shape, rows = phi.shape[:-1], self._projected(self._as_rows(phi))
        if self.sketch_dim < _LEAST_ROOM * self.effective_dimension:
            most = rows.double().square().sum(1).view(shape) / self.ridge * (1 + self.tolerance)
            return torch.zeros_like(most), torch.maximum(most, self.quad_form(phi))
        low, up = self.inner.interval(rows)
        return low.view(shape) / (1 + self.tolerance), up.view(shape) * (1 + self.tolerance)

    def _projected(self, rows: Tensor) -> Tensor:
        """Rows (b, p) or (b, d) as (b, d)."""
        return self.projection(rows) if rows.shape[1] == self.dim else rows

    def certificate(self, phi: Tensor) -> dict[str, float]:
        """The interval's slack, the effective dimension, and the projection's ratio as observed.

        The ratio is phi' A^-1 phi with projected over the same with raw features, where A holds
        only the last 16 observations, so that both can be computed.
        """
        report = super().certificate(phi)
        report["covariance/sketch_effective_dimension"] = self.effective_dimension
        rows = self._as_rows(phi)
        if self._window and rows.shape[1] == self.dim:
            report |= self.observed_ratio(torch.stack(self._window), rows)
        return report

    def observed_ratio(self, window: Tensor, rows: Tensor) -> dict[str, float]:
        """Smallest and largest phi' A^-1 phi with projected over the same with raw features.

        Args:
            window: A few raw features (n, p) that are all A holds, so that both can be computed.
            rows: Raw features (b, p) to ask for.
        """
        raw = DualCovariance(self.dim, ridge=self.ridge)
        raw.update(window)
        projected = DualCovariance(self.sketch_dim, ridge=self.ridge)
        projected.update(self.projection(window))
        exact = raw.quad_form(rows)
        good = exact > 0
        ratio = projected.quad_form(self.projection(rows))[good] / exact[good]
        return {
            "covariance/sketch_ratio_low": float(ratio.min()) if len(ratio) else 1.0,
            "covariance/sketch_ratio_high": float(ratio.max()) if len(ratio) else 1.0,
        }

    def solve(self, v: Tensor) -> Tensor:
        """Not available: the projection cannot be undone.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "a projected covariance has no A^-1 v; use quad_form or cov, or the covariance 'exact'"
        )

    def discount(self, gamma: float) -> None:
        """Forget: A <- gamma A + (1 - gamma) ridge I."""
        before = self.inner.log_det
        self.inner.discount(gamma)
        self._scored = None
        self._settle(before)

    def _settle(self, before: float) -> None:
        """Keep up with a change of A that was no observation.

        Args:
            before: What the inner information gain was before it.
        """
        if before > 0 and not self.projection.is_isometry:
            self._log_det *= self.inner.log_det / before
            moved = abs(self._log_det - self._corrected_at)
            if moved <= _SETTLED * max(self._corrected_at, 1.0):
                return
        self._recompute()

    def _recompute(self) -> None:
        """Inner ridge and information gain afresh, from the sketch alone."""
        self._correct_ridge()
        room = max(1.0 - self.effective_dimension / self.sketch_dim, _LEAST_SHARE)
        hidden = self.effective_dimension + self.sketch_dim * math.log(room)
        self._log_det = self._corrected_at = max(self.inner.log_det + hidden, 0.0)

    def _reset(self) -> None:
        self.inner.rebuild([])
        self.inner.set_ridge(self.ridge)
        self._start()

    def state_dict(self) -> State:
        """The inner state, the window and the counters; the projection comes from the seed."""
        state: State = {f"inner.{key}": value for key, value in self.inner.state_dict().items()}
        if self._window:
            state["window"] = torch.stack(self._window)
        return {
            **state,
            "seed": self._seed,
            "log_det": self._log_det,
            "corrected_at": self._corrected_at,
            "effective_dimension": self.effective_dimension,
            "next_correction": self._next_correction,
            **self._counters(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: If that was sketched with another seed.
        """
        if state.get("seed", self._seed) != self._seed:
            raise ValueError(
                f"the state was sketched with seed {state['seed']}, this covariance has seed "
                f"{self._seed}; make it with the seed of the state"
            )
        self._load_counters(state)
        self.inner.load_state_dict(
            {k.removeprefix("inner."): v for k, v in state.items() if k.startswith("inner.")}
        )
        self._log_det = float(state["log_det"])
        self._corrected_at = float(state.get("corrected_at", self._log_det))
        self.effective_dimension = float(state["effective_dimension"])
        self._next_correction = int(state["next_correction"])
        self._window = list(state["window"].unbind()) if "window" in state else []


def countsketch(
    dim: int,
    *,
    ridge: float = 1.0,
    rank: int | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> ProjectedCovariance:
    """CountSketch to `rank` dimensions (2,048), exact there: rows at first, dense later.

    Raises:
        ValueError: If `rank` is above 4,096, more than the dense form is good for.
    """
    if rank is not None and rank > DENSE_DIM:
        raise ValueError(
            f"countsketch rank {rank} must be at most {DENSE_DIM}; low-rank takes wider sketches"
        )
    inner = BudgetedCovariance(2048 if rank is None else rank, ridge=ridge)
    return ProjectedCovariance(dim, inner, ridge=ridge, seed=seed)


def low_rank(
    dim: int,
    *,
    ridge: float = 1.0,
    rank: int | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    sketch_dim: int | None = None,
    max_rank: int | None = None,
    max_delta: float = 0.25,
) -> ProjectedCovariance:
    """CountSketch to `sketch_dim` dimensions, then frequent directions of `rank` (256) there.

    The default `sketch_dim` keeps the cost below a tenth of a round: 4,096, or 8,192 for p >
    100,000.
    """
    if sketch_dim is None:
        sketch_dim = 4096 if dim <= 100_000 else 8192
    inner = FrequentDirections(
        sketch_dim, ridge=ridge, rank=rank, max_rank=max_rank, max_delta=max_delta
    )
    return ProjectedCovariance(dim, inner, ridge=ridge, seed=seed)
