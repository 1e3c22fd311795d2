"""Frequent directions: a covariance sketch of fixed size with a deterministic, two-sided error.

The sketch is a DualCovariance of at most 2 m rows B. When it is full, with B B' = U diag(s) U',
the (m+1)-st eigenvalue delta is taken off all: B <- diag(sqrt((s_i - delta)+ / s_i)) U' B keeps m
rows, and Delta, the sum of all deltas, bounds what was lost:

    B'B <= Phi'Phi <= B'B + Delta I,    Delta <= min_{k<m} |Phi - Phi_k|_F^2 / (m - k)
    q(B; ridge + Delta) <= phi' A^-1 phi <= q(B; ridge),   q(B; r) = phi' (r I + B'B)^-1 phi

Papers: Ghashami et al., "Frequent Directions" - https://arxiv.org/abs/1501.01711; as a bandit's
covariance: Kuzborskij et al. - https://arxiv.org/abs/1809.11033 (variant `upper`), Chen et al.,
IJCAI 2020 (`lower`); with half of Delta added back: Luo et al., JMLR 20(45), 2019 (`centred`).
Differs: by default the ridge in use is neither end of the interval nor its middle but the one that
keeps the widths of features not yet in the sketch (`calibrated_ridge`): Delta is a worst case, what
was lost is spread over far more directions than one.
Differs: where Delta would pass
`max_delta` ridges the rank doubles, up to `max_rank`, instead of shrinking (the idea of dyadic
sketches, https://arxiv.org/abs/2410.10258).
"""

from __future__ import annotations

import logging
import math
from collections import deque
from typing import Literal

import torch
from torch import Tensor

from vitucb.covariance.base import FeatureCovariance, State, information_gain
from vitucb.covariance.dual import DualCovariance
from vitucb.covariance.guards import check_gamma
from vitucb.covariance.ridge_correction import calibrated_ridge
from vitucb.covariance.scored import Scored

_logger = logging.getLogger(__name__)

DEFAULT_RANK = 256
_PROBES = 32
_SHIFTS = {"calibrated": None, "upper": 0.0, "centred": 0.5, "lower": 1.0}


class FrequentDirections(FeatureCovariance):
    """At most 2 `rank` rows instead of all; exact until the first shrink.

    Attributes:
        rank: Directions m kept by a shrink; grows up to `max_rank`.
        delta: Delta, what B'B may lack in any direction.
        variant: Which ridge the quadratic form uses: `calibrated` (the best guess), `centred`
            (ridge + Delta / 2), `upper` (ridge: never too narrow) or `lower` (ridge + Delta: never
            too wide).
        shift: How much that is above `ridge`, in 0..Delta.
    """

    def __init__(
        self,
        dim: int,
        *,
        ridge: float = 1.0,
        rank: int | None = None,
        seed: int = 0,
        dtype: torch.dtype | None = None,
        max_rank: int | None = None,
        max_delta: float = 0.25,
        variant: Literal["calibrated", "centred", "upper", "lower"] = "calibrated",
    ) -> None:
        """Start empty.

        Args:
            dim: Number of features p.
            ridge: Ridge of A.
            rank: Directions kept, at most p; None means 256 (or p).
            seed: Not used.
            dtype: Not used; rows take the type of the first features.
            max_rank: To which `rank` may double; None means twice `rank`.
            max_delta: Delta in ridges past which the rank doubles: widths err by at most
                sqrt(1 + max_delta) - 1 while it has room to.
            variant: See the class.

        Raises:
            ValueError: If `rank` is not in 1..p or the variant is unknown.
        """
        super().__init__(dim, ridge=ridge)
        rank = min(DEFAULT_RANK, dim) if rank is None else rank
        if not 1 <= rank <= dim:
            raise ValueError(f"rank {rank} must lie in 1..{dim}, the feature dimension")
        if variant not in _SHIFTS:
            raise ValueError(f"variant {variant!r} must be one of {sorted(_SHIFTS)}")
        self.variant = variant
        self.max_rank = 2 * rank if max_rank is None else max_rank
        self.max_delta = max_delta
        self._first_rank = rank
        self._rows = DualCovariance(dim, ridge=ridge)
        self._start()

    def _start(self) -> None:
        self.rank = self._first_rank
        self.delta = self.shift = 0.0
        self._probes: deque[Tensor] = deque(maxlen=_PROBES)  # Arms seen and not chosen.
        self._lost = 0.0  # tr Phi'Phi - tr B'B, what all shrinks have taken off.
        self._gains = [0.0, 0.0, 0.0]  # log det: lower bound, estimate, upper bound.
        self._has_shrunk = False
        self._has_warned = False
        self._rows.rebuild([])
        self._shift_ridge()

    def _shift_ridge(self) -> None:
        share = _SHIFTS[self.variant]
        if share is not None:
            self.shift = share * self.delta
        self._rows.set_ridge(self.ridge + self.shift)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the rows and their small algebra."""
        return self._rows.memory_bytes

    @property
    def log_det(self) -> float:
        """Information gain log det(A / ridge) as estimated: sum_t log(1 + w_t s_t^2), nats.

        After a discount, a merge or another ridge: in proportion to what it would be if what was
        lost lay evenly in all directions that are not kept.
        """
        return self._gains[1]

    @property
    def log_det_interval(self) -> tuple[float, float]:
        """Lower and upper bound of the exact information gain, nats."""
        return self._gains[0], self._gains[2]

    @property
    def _factors(self) -> tuple[float, float]:
        """(low, up) with low * q <= phi' A^-1 phi <= up * q for the quadratic form q in use.

        Because r q(B; r) grows with r while q(B; r) falls; the interval proper is narrower.
        """
        used = self._rows.ridge
        return used / (self.ridge + self.delta), used / self.ridge

    def _score(self, phi: Tensor) -> Scored:
        return self._rows._score(phi)

    def _cov(self, scored: Scored) -> Tensor:
        return self._rows._cov(scored)

    def _append(self, scored: Scored, weights: Tensor) -> None:
        if self._rows.size == 2 * self.rank:
            self._shrink(scored.phi)
            scored = self._score(scored.phi)
        room = 2 * self.rank - self._rows.size
        if len(weights) > room:
            for phi, part in zip(
                torch.split(scored.phi, room), torch.split(weights, room), strict=True
            ):
                self._append(self._score(phi), part)
            return
        low, up = self._factors
        for i, factor in enumerate((low, 1.0, up)):
            self._gains[i] += information_gain(self, scored, weights * factor)
        self._rows._append(scored, weights)

    def _see_others(self, scored: Scored, index: int) -> None:
        if len(scored.squares) > 1:
            self._probes.append(scored.phi[index - 1].clone())

    def _shrink(self, unseen: Tensor) -> None:
        """Keep `rank` directions, or double the rank if that would cost too much.

        Args:
            unseen: Features (b, p) not in the sketch, e.g. those about to enter.
        """
        values, vectors = torch.linalg.eigh(self._rows.effective_gram())
        values, vectors = values.flip(0).clamp_min(0.0), vectors.flip(1)
        lost = float(values[self.rank])
        if self.delta + lost > self.max_delta * self.ridge:
            if 2 * self.rank <= self.max_rank:
                self.rank *= 2
                return
            self._warn(lost)
        kept = values - lost
        # Directions of no more than rounding are dropped, and what they had is accounted for.
        keep = kept > torch.finfo(torch.float64).eps * values[0]
        left_over = float(kept[~keep].max()) if bool((~keep).any()) else 0.0
        self.delta += lost + max(left_over, 0.0)
        if self.variant == "calibrated":
            self._calibrate(values, vectors, lost, torch.stack([*self._probes, *unseen[:_PROBES]]))
        kept, vectors = kept[keep], vectors[:, keep]
        self._lost += float(values.sum() - kept.sum())
        self._rows.set_rows(vectors * (kept / values[keep]).sqrt(), kept)
        self._has_shrunk = True
        self._shift_ridge()

    def _calibrate(self, values: Tensor, vectors: Tensor, lost: float, unseen: Tensor) -> None:
        """Set `shift` for the sketch after a shrink by `lost`."""
        scored = self._score(unseen)
        assert scored.gram is not None
        assert scored.cross is not None
        alive = values > torch.finfo(torch.float64).eps * values[0]
        along = vectors[:, alive].mT @ (self._rows.root_weights * scored.cross)
        inside = along.mT.square() / values[alive]
        outside = (scored.gram.diagonal() - inside.sum(1)).clamp_min(0.0)
        low, up = self.ridge, self.ridge + self.delta
        used = calibrated_ridge(inside, outside, values[alive], lost, self._rows.ridge, low, up)
        self.shift = used - self.ridge

    def _warn(self, lost: float) -> None:
        if not self._has_warned:
            _logger.warning(
                "frequent directions of rank %d lose %.2g ridges: widths are known to %.0f %%; "
                "raise rank or max_rank",
                self.rank,
                (self.delta + lost) / self.ridge,
                100 * (math.sqrt(1 + (self.delta + lost) / self.ridge) - 1),
            )
        self._has_warned = True

    def interval(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of the exact phi' A^-1 phi, whatever the data: float64 (...), float64 (...).

        Up to the rounding of rows: in float32, 1e-7 of the largest eigenvalue over the ridge.
        """
        squares = self.quad_form(phi)
        if self.delta == 0.0:
            return squares, squares
        assert self._scored is not None
        low, up = self._factors
        at_low = self._rows.square_at_ridge(self._scored, self.ridge + self.delta)
        at_up = self._rows.square_at_ridge(self._scored, self.ridge)
        shape = squares.shape
        lower = torch.maximum(at_low.view(shape), low * squares).clamp_max(squares)
        upper = torch.minimum(at_up.view(shape), up * squares).clamp_min(squares)
        return lower, upper

    def set_ridge(self, ridge: float) -> None:
        """Change the ridge of A; the observations stay."""
        if ridge == self.ridge:
            return
        before, (low, _, up) = self._spread_gain(), self._gains
        share = self.ridge / ridge
        self.ridge = ridge
        self._scored = None
        self._shift_ridge()
        # log(1 + c x) lies between log(1 + x) and c log(1 + x).
        self._settle_gains(before, low * min(share, 1.0), up * max(share, 1.0))

    def spectrum(self) -> Tensor:
        """Eigenvalues of B B', float64 (n,), ascending."""
        return self._rows.spectrum()

    def solve(self, v: Tensor) -> Tensor:
        """(r I + B'B)^-1 v for v (..., p), r the ridge in use: float64 (..., p)."""
        return self._rows.solve(v)

    def discount(self, gamma: float) -> None:
        """Forget: A <- gamma A + (1 - gamma) ridge I; Delta shrinks alike."""
        before, (low, _, up) = self._spread_gain(), self._gains
        self._rows.discount(check_gamma(gamma))
        self.delta *= gamma
        self.shift *= gamma
        self._lost *= gamma
        self._scored = None
        self._shift_ridge()
        self._settle_gains(before, gamma * low, up)  # gamma log(1 + x) <= log(1 + gamma x)

    @property
    def _unkept(self) -> int:
        """How many directions observations may have that no row of B has."""
        return max(min(self.count, self.dim) - self._rows.size, 0)

    def _spread_gain(self) -> float:
        """Information gain if what was lost lay evenly in all directions not kept, nats."""
        if not self._unkept:
            return self._rows.log_det
        spread = math.log1p(self._lost / self._unkept / self.ridge)
        return self._rows.log_det + self._unkept * spread

    def _settle_gains(self, before: float, low: float, up: float) -> None:
        """Information gains after a change of A that was no observation.

        Phi'Phi has at most `count` eigenvalues above 0, each at most Delta above that of B'B, and
        together `_lost` above those.

        Args:
            before: `_spread_gain` before it.
            low: Lower bound that still holds.
            up: Upper bound that still holds.
        """
        share = self._spread_gain() / before if before > 0 else 1.0
        kept, rest = self._rows.log_det, self._unkept  # kept: at a ridge that may be larger
        excess = min(self.delta, self._lost / rest) if rest else 0.0
        most = kept + self._rows.size * math.log1p(self.delta / self.ridge)
        low = max(low, kept)
        up = max(min(up, most + rest * math.log1p(excess / self.ridge)), low)
        self._gains = [low, min(max(share * self._gains[1], low), up), up]

    def _reset(self) -> None:
        self._start()

    def state_dict(self) -> State:
        """The rows, Delta, the rank and the counters."""
        return {
            **{f"rows.{key}": value for key, value in self._rows.state_dict().items()},
            "rank": self.rank,
            "delta": self.delta,
            "shift": self.shift,
            "lost": self._lost,
            **({"probes": torch.stack(list(self._probes))} if self._probes else {}),
            "has_shrunk": self._has_shrunk,
            "gains": torch.tensor(self._gains, dtype=torch.float64),
            **self._counters(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._load_counters(state)
        self._rows.load_state_dict(
            {k.removeprefix("rows."): v for k, v in state.items() if k.startswith("rows.")}
        )
        self.rank = int(state["rank"])
        self.delta = float(state["delta"])
        self.shift = float(state["shift"])
        self._lost = float(state.get("lost", 0.0))
        self._probes.clear()
        self._probes.extend(state["probes"].unbind() if "probes" in state else [])
        self._has_shrunk = bool(state["has_shrunk"])
        self._gains = state["gains"].tolist()
