"""The interface of every feature covariance, with the checks and the bookkeeping they share."""

from __future__ import annotations

import abc
import logging
import math
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitucb.covariance.scored import Scored

_logger = logging.getLogger(__name__)

State: TypeAlias = dict[str, Any]
"""Flat: str -> tensor, or a JSON scalar."""

MAX_REJECTED_IN_A_ROW = 10


class FeatureCovariance(abc.ABC):
    """A = ridge I + sum_i w_i phi_i phi_i', and the confidence widths it gives.

    Features of any float type and device come in, float64 comes out. A subclass implements
    `_score`, `_append` and `_cov` on (b, p) matrices of finite features.

    Non-finite features never enter A: they are counted in `rejected`, logged once, score zero,
    and raise once ten observations in a row were rejected. Zero features change nothing.

    Attributes:
        dim: Number of features p.
        ridge: Ridge of A.
        count: Observations that entered A.
        rejected: Observations refused because a feature was not finite.
    """

    def __init__(self, dim: int, *, ridge: float = 1.0) -> None:
        """Start at A = ridge I.

        Raises:
            ValueError: If `dim` is below 1, or `ridge` is not positive and finite.
        """
        if dim < 1:
            raise ValueError(f"covariance dim {dim} must be at least 1")
        if not (ridge > 0.0 and math.isfinite(ridge)):
            raise ValueError(f"covariance ridge {ridge} must be positive and finite")
        self.dim = dim
        self.ridge = float(ridge)
        self.count = 0
        self.rejected = 0
        self._rejected_in_a_row = 0
        self._scored: Scored | None = None
        self._loaded_on: set[torch.device] = set()

    # What a representation implements.

    @abc.abstractmethod
    def _score(self, phi: Tensor) -> Scored:
        """Score finite features (b, p)."""

    @abc.abstractmethod
    def _append(self, scored: Scored, weights: Tensor) -> None:
        """Add rows scored against the present A, with weights (b,) float64 above 0 on the CPU."""

    @abc.abstractmethod
    def _cov(self, scored: Scored) -> Tensor:
        """Phi A^-1 Phi' of the scored rows, float64 (b, b)."""

    @abc.abstractmethod
    def _reset(self) -> None:
        """Back to A = ridge I."""

    def _see_others(self, scored: Scored, index: int) -> None:  # noqa: B027  # optional
        """Told of the whole scored batch when arm `index` of it is about to be added."""

    @property
    @abc.abstractmethod
    def log_det(self) -> float:
        """Information gain log det(A / ridge), in nats."""

    @property
    @abc.abstractmethod
    def memory_bytes(self) -> int:
        """Bytes in use by what represents A."""

    @abc.abstractmethod
    def solve(self, v: Tensor) -> Tensor:
        """A^-1 v for v (..., p): float64 (..., p)."""

    @abc.abstractmethod
    def discount(self, gamma: float) -> None:
        """Forget: A <- gamma A + (1 - gamma) ridge I, so that the ridge stays."""

    @abc.abstractmethod
    def state_dict(self) -> State:
        """Everything needed to continue bit for bit: a flat dict of tensors and JSON scalars."""

    @abc.abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""

    # The public interface.

    def quad_form(self, phi: Tensor) -> Tensor:
        """Squared width phi' A^-1 phi, never negative.

        Args:
            phi: Features (..., p). A batch scored here can be added by `update(index=i)`.

        Returns:
            float64 (...); 0 where a feature is not finite.

        Raises:
            ValueError: If the last dimension is not p.
        """
        self._scored = self._checked_score(self._as_rows(phi))
        return self._scored.squares.view(phi.shape[:-1])

    def width(self, phi: Tensor) -> Tensor:
        """sqrt(phi' A^-1 phi) of features (..., p): float64 (...)."""
        return self.quad_form(phi).sqrt()

    def width_array(self, phi: Tensor) -> NDArray[np.float64]:
        """`width` of features (b, p) as an array (b,), for which the host waits only once."""
        self.quad_form(phi)
        assert self._scored is not None
        widths: NDArray[np.float64] = self._scored.tell()[0].sqrt().numpy()
        return widths

    def width_array_with(
        self, phi: Tensor, values: Tensor
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`width_array`, and values float64 (b,) of the same device, read in one go."""
        self._scored = self._checked_score(self._as_rows(phi), values)
        told = self._scored.tell()
        return told[0].sqrt().numpy(), told[-1].numpy()

    def update(
        self,
        phi: Tensor | None = None,
        weight: float | Tensor = 1.0,
        *,
        index: int | None = None,
    ) -> None:
        """Add observations; each call enters each of its rows exactly once.

        Args:
            phi: Features (p,) or (b, p).
            weight: Weight of the observations, a number or (b,), above 0; 0 adds nothing.
            index: Instead of `phi`: which arm of the last scored batch, at no cost beyond storing
                it.

        Raises:
            ValueError: If neither or both of `phi` and `index` are given, shapes do not fit, or a
                weight is negative or not finite.
            RuntimeError: If `index` is given and A has changed since the last scoring.
            FloatingPointError: If ten observations in a row were not finite.
        """
        if (phi is None) == (index is None):
            raise ValueError("update takes either phi or index=, not both and not neither")
        if index is not None:
            scored = self._last_scored(index)
            assert self._scored is not None
            self._see_others(self._scored, index)
        else:
            assert phi is not None
            scored = self._checked_score(self._as_rows(phi))
        self._scored = None
        weights = self._as_weights(weight, scored)
        keep = weights.numpy() > 0
        if scored.is_finite is not None:
            is_finite = scored.is_finite.cpu().numpy()
            keep &= is_finite
            self._count_rejected(int((~is_finite).sum()), len(keep))
        else:
            self._rejected_in_a_row = 0
        if not keep.all():
            kept = torch.from_numpy(keep)
            scored, weights = scored.take(kept), weights[kept]
        if len(weights):
            self._append(scored, weights)
            self.count += len(weights)

    def interval(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bound of the true phi' A^-1 phi; equal where it is exact."""
        squares = self.quad_form(phi)
        return squares, squares

    def cov(self, phi: Tensor) -> Tensor:
        """Joint covariance Phi A^-1 Phi' of the scores of features (b, p): float64 (b, b)."""
        rows = self._as_rows(phi)
        self._scored = self._checked_score(rows)
        return self._cov(self._scored)

    def sample(self, phi: Tensor, generator: torch.Generator, *, joint: bool = True) -> Tensor:
        """Gaussian scores of arms with covariance Phi A^-1 Phi', mean zero.

        Args:
            phi: Features (b, p).
            generator: Source of chance.
            joint: Whether arms are correlated as one parameter draw would make them; False draws
                each arm on its own.

        Returns:
            float64 (b,).
        """
        noise = torch.randn(len(phi), generator=generator, dtype=torch.float64)
        noise = noise.to(phi.device)
        if not joint:
            return self.width(phi) * noise
        # eigh and not Cholesky: duplicated arms make the covariance singular, and that is no error.
        values, vectors = torch.linalg.eigh(self.cov(phi))
        draw: Tensor = vectors @ (values.clamp_min(0.0).sqrt() * noise)
        return draw

    def rebuild(self, phi: Tensor | Iterable[Tensor], weight: float | Tensor = 1.0) -> None:
        """Start again from these observations: A = ridge I + sum_i w_i phi_i phi_i'.

        Args:
            phi: All features (n, p), or an iterable of chunks (b, p) so that they need not exist at
                once.
            weight: As in `update`, for every chunk.
        """
        self._reset()
        self.count = 0
        self._scored = None
        for chunk in [phi] if isinstance(phi, Tensor) else phi:
            self.update(chunk, weight)

    def certificate(self, phi: Tensor) -> dict[str, float]:
        """What is known about the error on these arms, as `covariance/name: value` for logging.

        `covariance/certificate` is the largest sqrt(upper / lower) - 1 of the intervals: by how
        much a width may be off, 0 where it is exact, infinite where nothing is known.
        """
        low, up = self.interval(phi)
        ratios = (up / low)[up > 0]
        return {"covariance/certificate": float(ratios.max().sqrt()) - 1.0 if len(ratios) else 0.0}

    # Bookkeeping

    def _counters(self) -> State:
        return {
            "ridge": self.ridge,
            "count": self.count,
            "rejected": self.rejected,
            "rejected_in_a_row": self._rejected_in_a_row,
        }

    def _load_counters(self, state: State) -> None:
        self.ridge = float(state["ridge"])
        self.count = int(state["count"])
        self.rejected = int(state["rejected"])
        self._rejected_in_a_row = int(state["rejected_in_a_row"])
        self._scored = None
        self._loaded_on = {value.device for value in state.values() if isinstance(value, Tensor)}

    def _follow(self, device: torch.device) -> None:
        """Move to where features are, after a state was loaded: files are read to the CPU."""
        if self._loaded_on - {device}:
            state = self.state_dict()
            self.load_state_dict(
                {k: v.to(device) if isinstance(v, Tensor) else v for k, v in state.items()}
            )
        self._loaded_on = set()

    def _as_rows(self, phi: Tensor) -> Tensor:
        if phi.shape[-1:] != (self.dim,):
            raise ValueError(
                f"features have shape {tuple(phi.shape)}; the last dimension must be {self.dim}"
            )
        return phi.detach().reshape(-1, self.dim)

    def _checked_score(self, rows: Tensor, *also: Tensor) -> Scored:
        """Score rows of which some may not be finite, which score 0; `also` as in `tell`."""
        self._follow(rows.device)
        scored = self._score(rows)
        if _are_finite(scored.tell(*also)[0]):
            return scored
        # Only now look at every entry: the scores of finite features are finite.
        bad = ~torch.isfinite(rows).all(dim=1)
        scored = self._score(torch.where(bad[:, None], torch.zeros_like(rows), rows))
        if not _are_finite(scored.tell(*also)[0]):
            largest = float(rows[~bad].abs().max())
            raise FloatingPointError(
                f"features as large as {largest:.3g} overflow the covariance; scale them to norm 1"
            )
        scored.is_finite = ~bad
        return scored

    def _count_rejected(self, rejected: int, rows: int) -> None:
        if rejected and not self.rejected:
            _logger.warning("features that are not finite were kept out of the covariance")
        self.rejected += rejected
        self._rejected_in_a_row = self._rejected_in_a_row + rejected if rejected == rows else 0
        if self._rejected_in_a_row >= MAX_REJECTED_IN_A_ROW:
            raise FloatingPointError(
                f"{self._rejected_in_a_row} observations in a row had non-finite features; "
                "lower the learning rate or inspect the model's weights"
            )

    def _last_scored(self, index: int) -> Scored:
        if self._scored is None:
            raise RuntimeError(
                "update(index=) needs a batch scored by quad_form since the last change of A"
            )
        arms = len(self._scored.squares)
        if not 0 <= index < arms:
            raise ValueError(f"index {index} is not one of the {arms} scored arms")
        return self._scored.take(slice(index, index + 1))

    @staticmethod
    def _as_weights(weight: float | Tensor, scored: Scored) -> Tensor:
        # On the host, which has to know them: whether a row enters is decided there.
        weights = torch.as_tensor(weight, dtype=torch.float64, device="cpu").detach()
        if not (_are_finite(weights) and (weights.numpy() >= 0).all()):
            raise ValueError(f"weight {weight} must be finite and at least 0")
        return weights.expand(len(scored.squares))


def _are_finite(values: Tensor) -> bool:
    """Whether all of values on the CPU are; by numpy, which has no tensor to make for it."""
    return bool(np.isfinite(values.numpy()).all())


def information_gain(covariance: FeatureCovariance, scored: Scored, weights: Tensor) -> float:
    """Growth of log det A by adding the scored rows with weights (b,) on the CPU, nats."""
    if len(weights) == 1:
        return math.log1p(float(weights[0] * scored.tell()[0, 0]))
    root = weights.sqrt().to(scored.squares.device)
    gram = covariance._cov(scored) * root * root[:, None]
    return float(torch.linalg.eigvalsh(gram).clamp_min(0.0).log1p().sum())
