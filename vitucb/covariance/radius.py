"""Radius of the confidence ellipsoid.

Paper: Abbasi-Yadkori, Pal and Szepesvari, "Improved Algorithms for Linear Stochastic Bandits",
NeurIPS 2011, Theorem 2 - https://papers.nips.cc/paper/4417
"""

from __future__ import annotations

import math


def oful_radius(
    log_det: float, *, noise: float, ridge: float, norm_bound: float, delta: float
) -> float:
    """Radius alpha with |f(x) - f*(x)| <= alpha width(x) always, with probability 1 - delta.

    alpha = noise * sqrt(log det(A / ridge) + 2 log(1 / delta)) + sqrt(ridge) * norm_bound.

    Args:
        log_det: Information gain log det(A / ridge), at least 0.
        noise: Sub-Gaussian constant of the reward noise, reward units.
        ridge: Ridge of A, above 0.
        norm_bound: Bound on the norm of the true parameter.
        delta: Probability that the bound fails, in (0, 1).

    Raises:
        ValueError: If `delta` is not in (0, 1).
    """
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta {delta} must lie strictly between 0 and 1")
    return noise * math.sqrt(max(log_det, 0.0) - 2.0 * math.log(delta)) + (
        math.sqrt(ridge) * norm_bound
    )
