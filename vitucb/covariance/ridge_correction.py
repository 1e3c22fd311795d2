"""The ridge of a sketch, corrected for what it left out."""

from __future__ import annotations

from torch import Tensor

# Corrections beyond this mean that the sketch is too small for the data.
_LEAST_SHARE = 0.05


def effective_dimension(spectrum: Tensor, ridge: float) -> float:
    """d_eff = sum_i s_i / (s_i + ridge) of the eigenvalues s of Phi Phi'."""
    return float((spectrum / (spectrum + ridge)).sum())


def debiased_ridge(spectrum: Tensor, ridge: float, sketch_dim: int) -> float:
    """The r with r = ridge (1 - d_eff(r) / d), by bisection; at least 5 % of the ridge.

    Args:
        spectrum: Eigenvalues of the projected Phi Phi', at least 0.
        ridge: Ridge of A.
        sketch_dim: Dimension d of the projection.
    """
    low, up = _LEAST_SHARE * ridge, ridge
    for _ in range(40):
        middle = 0.5 * (low + up)
        if middle > ridge * (1.0 - effective_dimension(spectrum, middle) / sketch_dim):
            up = middle
        else:
            low = middle
    return up


def calibrated_ridge(
    inside: Tensor,
    outside: Tensor,
    values: Tensor,
    lost: float,
    ridge: float,
    low: float,
    up: float,
) -> float:
    """The ridge at which a shrunk sketch gives features it has not seen the widths they had before.

    Their mean squared width is sum_i c_i^2 / (s_i + ridge) + o / ridge before the shrink and
    sum_i c_i^2 / ((s_i - lost)+ + r) + o / r after it, falling in r; r is found by bisection.

    Args:
        inside: c_i^2, energies of the features along the eigenvectors of B'B, (b, n).
        outside: o, their energies outside the rows of B, (b,).
        values: Eigenvalues s of B B', (n,), above 0.
        lost: What the shrink takes off.
        ridge: Ridge in use before.
        low: Least ridge allowed.
        up: Largest ridge allowed.
    """
    c, o = inside.sum(0), float(outside.sum())
    target = float((c / (values + ridge)).sum()) + o / ridge
    left = (values - lost).clamp_min(0.0)
    for _ in range(40):
        middle = 0.5 * (low + up)
        if float((c / (left + middle)).sum()) + o / middle > target:
            low = middle
        else:
            up = middle
    return 0.5 * (low + up)
