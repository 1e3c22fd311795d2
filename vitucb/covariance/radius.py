"""Radii of the confidence ellipsoid, and the noise level they are measured in.

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


class ResidualNoise:
    """Running standard deviation of reward residuals, for a bonus in units of the noise.

    The prior counts as `prior_count` residuals of size `prior`, so that early rounds are not
    governed by two lucky predictions; both moments forget with the factor `decay` because
    residuals of an untrained model say nothing about the noise.
    """

    def __init__(self, prior: float = 1.0, prior_count: float = 10.0, decay: float = 0.99) -> None:
        """Start at the standard deviation `prior`, reward units."""
        self.weight = prior_count
        self.total = prior_count * prior**2
        self.decay = decay

    def update(self, residual: float) -> None:
        """Count one residual, reward minus prediction; a non-finite one is ignored."""
        if math.isfinite(residual):
            self.weight = self.decay * self.weight + 1.0
            self.total = self.decay * self.total + residual**2

    @property
    def std(self) -> float:
        """Root mean square residual, reward units."""
        return math.sqrt(self.total / self.weight)

    def state_dict(self) -> dict[str, float]:
        """The two moments."""
        return {"weight": self.weight, "total": self.total}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` returned."""
        self.weight, self.total = float(state["weight"]), float(state["total"])
