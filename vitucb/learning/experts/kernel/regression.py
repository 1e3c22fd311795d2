"""Bayesian regression with a coarse part, a fine part and an effect of every single image.

    y = level + phi' theta + u_i + noise
    theta_g ~ N(0, rho_g sigma^2),   u_i ~ N(0, v_i sigma^2),   noise ~ N(0, sigma^2)

for an image i with features phi in groups g: a constant, coarse ones, a fine one. The effect u_i is
what the fine features leave out of the fine kernel: v_i = rho_fine (1 - |phi_fine|^2), the
correction of Snelson and Ghahramani, "Sparse Gaussian processes using pseudo-inputs", NeurIPS 2006
(FITC), by which few features do and every image is known apart all the same. Given n rewards of an
image with mean y_i, integrating u_i out leaves one observation y_i of phi' theta with weight
n / (1 + n v_i): another reward of it is an update of rank one.

The noise follows from the errors of one-step predictions, the prior variances from the evidence
(MacKay, "Bayesian interpolation", 1992) with the noise integrated out under an inverse gamma prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular

from vitucb.types import State

Array = NDArray[np.float64]
# Rewards that the prior of the noise counts for.
_PRIOR_COUNT = 2.0
_CONSTANT_DEVIATION = 3.0


@dataclass(frozen=True, slots=True)
class Seen:
    """Images with what is known of their rewards.

    Attributes:
        phi: Scaled features, the constant first, (n, m).
        effects: Prior variances v of the images' effects, (n,), in units of the noise variance.
        counts: Discounted numbers of rewards, (n,).
        sums: Discounted sums of rewards less the level, (n,).
    """

    phi: Array
    effects: Array
    counts: Array
    sums: Array

    @property
    def shares(self) -> Array:
        """Which share of an image's mean residual is put down to its effect, (n,)."""
        known = self.counts * self.effects
        shares: Array = known / (1 + known)
        return shares


class Moments:
    """Sufficient statistics of theta, the effects of images integrated out.

    Attributes:
        gram: Sum of w phi phi' with w = n / (1 + n v), (m, m).
        response: Sum of w y phi with y the mean reward of an image, (m,).
        squares: y' D^-1 y with D the covariance of rewards given theta, in units of the noise.
        log_det: log det D.
        count: Discounted number of rewards.
    """

    __slots__ = ("count", "gram", "log_det", "response", "squares")

    def __init__(self, seen: Seen, squares: float) -> None:
        """Of images and the sum of the squares of all their rewards less the level."""
        inflation = 1 + seen.counts * seen.effects
        rows = seen.phi * np.sqrt(seen.counts / inflation)[:, None]
        self.gram: Array = rows.T @ rows
        self.response: Array = seen.phi.T @ (seen.sums / inflation)
        explained = float((seen.effects * np.square(seen.sums) / inflation).sum())
        self.squares = max(squares - explained, 1e-12 * squares)
        self.log_det = float(np.log(inflation).sum())
        self.count = float(seen.counts.sum())

    def precision(self, scales: Array | float = 1.0) -> Array:
        """I + gram of the features times `scales` (m,)."""
        matrix: Array = self.gram * scales * np.reshape(scales, (-1, 1))
        matrix.flat[:: len(matrix) + 1] += 1.0
        return matrix


def noise_variance(errors: float, count: float, prior_noise: float) -> float:
    """Variance of the noise: squared errors over their number, and two of `prior_noise`."""
    return (errors + _PRIOR_COUNT * prior_noise) / (count + _PRIOR_COUNT)


def log_evidence(moments: Moments, prior_noise: float, scales: Array | float = 1.0) -> float:
    """Log marginal likelihood of the rewards up to a constant.

    Args:
        moments: Of features whose theta ~ N(0, scales^2 sigma^2).
        prior_noise: Prior guess of the noise variance, squared reward units.
        scales: Of the features, (m,).
    """
    factor = cholesky(moments.precision(scales), lower=True, overwrite_a=True, check_finite=False)
    response = moments.response * scales
    solved = solve_triangular(factor, response, lower=True, check_finite=False)
    errors = max(moments.squares - float(solved @ solved), 0.0)
    log_det = moments.log_det + 2 * float(np.log(factor.diagonal()).sum())
    half = (_PRIOR_COUNT + moments.count) / 2
    return -log_det / 2 - half * float(np.log((errors + _PRIOR_COUNT * prior_noise) / 2))


def prior_scales(sizes: Sequence[int], rho: Sequence[float]) -> Array:
    """Prior deviations (1 + sum(sizes),) of theta, the constant first, in units of the noise."""
    return np.repeat([_CONSTANT_DEVIATION, *np.sqrt(rho)], [1, *sizes])


class TwoScaleRegression:
    """The posterior for given prior variances, kept by rank-one updates.

    A choice whose reward has not come yet narrows widths and leaves means alone (Desautels et al.,
    "Parallelizing exploration-exploitation tradeoffs with Gaussian process bandit optimization",
    JMLR 2014, GP-BUCB): widths have a covariance of their own, the same object while nothing is
    awaited.

    Attributes:
        errors: Sum of squared one-step errors over their predicted variance in noise units.
        count: Discounted number of rewards.
    """

    def __init__(self, sizes: Sequence[int], rho: Sequence[float]) -> None:
        """The prior.

        Args:
            sizes: Numbers of features of the groups, the fine one last, the others coarse.
            rho: Prior variances of the groups, in units of the noise variance.
        """
        self._sizes, self._rho = tuple(sizes), tuple(rho)
        self._scales = prior_scales(sizes, rho)
        self.errors = self.count = 0.0
        self._theta = np.zeros(len(self._scales))
        self._covariance: Array = np.eye(len(self._scales))
        self._narrowed = self._covariance
        self._expected: list[tuple[Array, float]] = []  # not yet in `_narrowed`

    def scaled(self, parts: Array) -> tuple[Array, Array]:
        """Scaled features (n, m) and prior variances of effects (n,) of parts (n, m - 1)."""
        phi = np.concatenate([np.ones((len(parts), 1)), parts], axis=1) * self._scales
        explained = np.square(parts[:, sum(self._sizes[:-1]) :]).sum(axis=1)
        return phi, self._rho[-1] * np.maximum(1 - explained, 0.0)

    def condition(self, moments: Moments) -> None:
        """Forget everything but the observations of `moments`."""
        precision = moments.precision()
        factor = cho_factor(precision, lower=True, overwrite_a=True, check_finite=False)
        covariance = cho_solve(factor, np.eye(len(precision)), check_finite=False)
        self._covariance = (covariance + covariance.T) / 2
        self.settle()
        self._theta = cho_solve(factor, moments.response, check_finite=False)
        self.errors = max(moments.squares - float(moments.response @ self._theta), 0.0)
        self.count = moments.count

    def means(self, seen: Seen) -> Array:
        """Posterior means (n,) less the level."""
        model = seen.phi @ self._theta
        averages = seen.sums / np.maximum(seen.counts, 1e-300)
        means: Array = model + seen.shares * (averages - model)
        return means

    def deviations(self, seen: Seen) -> tuple[Array, Array, Array]:
        """Deviations (n,) in units of the noise: of f, of constant and coarse part, of the rest.

        The constant stands with the coarse part: rewards of one class alone tell their sum and
        neither by itself, which would leave the best known class a width for good. `seen` counts
        awaited rewards as if they had come; its sums are not used.
        """
        coarse, fine = self._groups
        phi, shares = seen.phi, seen.shares
        covariance = self._widths_covariance()
        product = phi @ covariance
        whole = np.einsum("ij,ij->i", product, phi)
        cross = np.einsum("ij,ij->i", product[:, fine], phi[:, fine])
        alone = _quadratic(phi[:, fine], covariance[fine, fine])
        effect = seen.effects / (1 + seen.counts * seen.effects)
        # The effect of an image leans on theta: fine part + u = (phi_fine - share phi)' theta + ...
        rest = alone - 2 * shares * cross + shares**2 * whole + effect
        parts = [
            (1 - shares) ** 2 * whole + effect,
            _quadratic(phi[:, coarse], covariance[coarse, coarse]),
            rest,
        ]
        whole, common, own = (np.sqrt(np.maximum(part, 0.0)) for part in parts)
        return whole, common, own

    @property
    def _groups(self) -> tuple[slice, slice]:
        split = 1 + sum(self._sizes[:-1])
        return slice(0, split), slice(split, split + self._sizes[-1])

    def expect(self, seen: Seen, weight: float = 1.0) -> None:
        """Narrow the widths as another reward of the one image of `seen` will."""
        self._expected.append((seen.phi[0], _added_weight(seen, weight)))

    def settle(self) -> None:
        """Nothing is awaited any more: widths are those of what was learnt."""
        self._expected.clear()
        self._narrowed = self._covariance

    def learn(self, seen: Seen, response: float, weight: float = 1.0) -> None:
        """Take in a reward of an image; widths follow at `settle`, or did at `expect`.

        Args:
            seen: The one image, with its rewards before this one.
            response: The reward less the level.
            weight: What the reward counts for.
        """
        phi, effect = seen.phi[0], float(seen.effects[0])
        count, total = float(seen.counts[0]), float(seen.sums[0])
        before, after = 1 + count * effect, 1 + (count + weight) * effect
        direction = self._covariance @ phi
        quad = float(phi @ direction)
        variance = 1 / weight + quad / before**2 + effect / before
        error = response - float(self.means(seen)[0])
        self.errors += error**2 / variance
        self.count += weight
        # theta = A^-1 b, b a sum of sums / (1 + n v) phi: both A and b grow along phi.
        added = _added_weight(seen, weight)
        grown = (total + weight * response) / after - total / before
        step = (grown - added * float(phi @ self._theta)) / (1 + added * quad)
        self._theta = self._theta + direction * step
        self._covariance = _rank_one(self._covariance, phi, added)

    def discount(self, gamma: float) -> None:
        """Let a round pass for the noise; the covariance follows at the next `condition`."""
        self.errors *= gamma
        self.count *= gamma

    def state_dict(self) -> State:
        """Prior and posterior."""
        narrowed = self._widths_covariance()
        return {
            "sizes": list(self._sizes),
            "rho": list(self._rho),
            "theta": self._theta.copy(),
            "covariance": self._covariance.copy(),
            "narrowed": None if narrowed is self._covariance else narrowed.copy(),
            "errors": self.errors,
            "count": self.count,
        }

    @classmethod
    def from_state(cls, state: State) -> TwoScaleRegression:
        """What `state_dict` described."""
        made = cls([int(size) for size in state["sizes"]], [float(rho) for rho in state["rho"]])
        made._theta = np.array(state["theta"], np.float64)
        made._covariance = made._narrowed = np.array(state["covariance"], np.float64)
        if state["narrowed"] is not None:
            made._narrowed = np.array(state["narrowed"], np.float64)
        made.errors, made.count = float(state["errors"]), float(state["count"])
        return made

    def _widths_covariance(self) -> Array:
        """The covariance for widths, with what was expected since in it."""
        for phi, weight in self._expected:
            self._narrowed = _rank_one(self._narrowed, phi, weight)
        self._expected.clear()
        return self._narrowed


def _quadratic(phi: Array, matrix: Array) -> Array:
    """Quadratic form phi' P phi (n,) of rows phi (n, m)."""
    values: Array = np.einsum("ij,ij->i", phi @ matrix, phi)
    return values


def _added_weight(seen: Seen, weight: float) -> float:
    """What another reward adds to the weight n / (1 + n v) of the one image of `seen`."""
    before = 1 + float(seen.counts[0] * seen.effects[0])
    return weight / (before * (before + weight * float(seen.effects[0])))


def _rank_one(covariance: Array, phi: Array, weight: float) -> Array:
    """Covariance (m, m) after `weight` phi phi' is added to its inverse."""
    direction = covariance @ phi
    shrunk = direction * np.sqrt(weight / (1 + weight * float(phi @ direction)))
    smaller: Array = covariance - np.outer(shrunk, shrunk)
    return smaller
