"""Checks and limits that keep a covariance positive definite."""

from __future__ import annotations

import torch
from torch import Tensor


def check_gamma(gamma: float) -> float:
    """`gamma` if it is a discount factor, in (0, 1].

    Raises:
        ValueError: If it is not.
    """
    if not 0.0 < gamma <= 1.0:
        raise ValueError(f"discount gamma {gamma} must lie in (0, 1]")
    return gamma


def limit_weights(weights: Tensor, norms: Tensor, squares: Tensor, ridge: float) -> Tensor:
    """Weights (b,), lowered where more than 1e12 ridges would come to lie along phi.

    Beyond that, rounding in float64 is coarser than the ridge. A has |phi|^2 / s^2 there already.
    Such an observation counts for less than it should, so widths are wider, and by less than 1e-12:
    nothing is added to A.

    Args:
        weights: Weights of the observations.
        norms: Their |phi|^2, (b,).
        squares: Their s^2 = phi' A^-1 phi, (b,).
        ridge: Ridge of A.
    """
    tiny = torch.finfo(norms.dtype).tiny
    room = 1e12 * ridge - norms / squares.clamp_min(tiny)
    return torch.minimum(weights, room.clamp_min(0.0) / norms.clamp_min(tiny))
