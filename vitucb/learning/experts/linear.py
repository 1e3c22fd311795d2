"""The expert `linear`: ridge regression on frozen features, the model of `lin-ucb`.

Li et al., "A contextual-bandit approach to personalized news article recommendation", 2010
(LinUCB); with a discount, Russac et al., "Weighted linear bandits for non-stationary
environments", 2019. The mean is theta = A^-1 b, the width sqrt(phi' A^-1 phi) times the deviation
of the prediction errors so far. Where every arm has an image, arms share one parameter; where one
image is the context of all, each has its own block. Alone it plays `lin-ucb` bit for bit.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vitucb.covariance.label_blocks import ridge_covariance
from vitucb.learning.experts.expert import Array, Offer, Prediction
from vitucb.learning.reward_scale import ResidualNoise
from vitucb.types import State

# Predictions kept for rewards that have not come yet; beyond, the error is that of today's mean.
_MOST_PENDING = 10_000


class LinearExpert:
    """A linear model of the rewards on features [h / rms, 1].

    Attributes:
        parameters: Counts for the catalogue of a run.
        starts_after: Rewards for which it is not asked in company.
    """

    def __init__(
        self,
        num_features: int,
        *,
        num_blocks: int = 1,
        ridge: float = 1.0,
        alpha: float = 0.3,
        discount: float = 1.0,
        starts_after: int = 0,
    ) -> None:
        """Start from no observations.

        Args:
            num_features: Number of frozen features d.
            num_blocks: 1 where every arm has an image; K where arms share one.
            ridge: Ridge of A.
            alpha: Multiplier of the width.
            discount: Weight of an observation after one more round, in (0, 1]; 1 forgets nothing.
            starts_after: Rewards for which it is not asked in company.

        Raises:
            ValueError: If an argument is out of range.
        """
        if not 0 < discount <= 1:
            raise ValueError(f"discount {discount} must be in (0, 1]")
        self._covariance = ridge_covariance(
            num_features + 1, num_blocks, ridge=ridge, discount=discount
        )
        self._response = torch.zeros(self._covariance.dim, dtype=torch.float64)
        self._alpha, self._discount, self.starts_after = alpha, discount, starts_after
        self._noise = ResidualNoise()
        self._rounds, self._has_passed = 0, False
        # Round -> what was expected of the arm chosen then.
        self._pending: dict[int, float] = {}
        self._scored: tuple[Offer, Array] | None = None
        self._made: tuple[Offer, Tensor] | None = None
        self.parameters = {"tracked_features": self._covariance.dim}

    def predict(self, offer: Offer) -> Prediction:
        """Means and widths of the arms; with a discount, the round passes at the first call."""
        self._let_pass()
        phi = self._features(offer)
        mean: Array = (phi @ self._covariance.solve(self._response)).numpy()
        width = self._noise.std * self._covariance.width(phi).numpy()
        self._scored = (offer, mean)
        return Prediction(mean, width, self._alpha * width)

    def correlation(self, offer: Offer) -> Array:
        """Posterior correlation of the arms, float64 (K, K), for policies that draw them jointly.

        Must follow `predict` of the same offer.
        """
        joint = self._covariance.cov(self._features(offer)).numpy()
        deviation = np.sqrt(np.maximum(joint.diagonal(), np.finfo(np.float64).tiny))
        correlation: Array = joint / np.outer(deviation, deviation)
        return correlation

    def choose(self, offer: Offer, action: int) -> None:
        """Count the choice in the covariance."""
        if self._scored is None or self._scored[0] is not offer:
            self.predict(offer)
        assert self._scored is not None
        self._covariance.update(index=action)
        self._pending[self._rounds] = float(self._scored[1][action])
        if len(self._pending) > _MOST_PENDING:
            del self._pending[next(iter(self._pending))]
        self._rounds, self._has_passed, self._scored = self._rounds + 1, False, None

    def observe(self, offer: Offer, action: int, reward: float, age: int) -> dict[str, float]:
        """Add the reward to the response, discounted by its age."""
        phi = self._features(offer)[action]
        expected = self._pending.pop(self._rounds - 1 - age, None)
        if expected is None:
            expected = float(phi @ self._covariance.solve(self._response))
        self._noise.add(reward - expected)
        self._noise.see(reward)
        # A late reward counts as much as it would by now, had it come at once.
        weight = self._discount ** (age + self._has_passed)
        self._response += weight * reward * phi
        self._scored = None
        return {"score/noise": self._noise.std, "covariance/log_det": self._covariance.log_det}

    def _features(self, offer: Offer) -> Tensor:
        """`linear_features`, kept until another offer is asked for."""
        if self._made is None or self._made[0] is not offer:
            self._made = offer, linear_features(offer)
        return self._made[1]

    def _let_pass(self) -> None:
        """Let a round pass, once: every observation counts `discount` times what it did."""
        if self._discount < 1 and not self._has_passed:
            self._covariance.discount(self._discount)
            self._response *= self._discount
            self._has_passed = True

    def state_dict(self) -> State:
        """Covariance, response, noise, counters and the predictions that wait for their rewards."""
        return {
            "covariance": self._covariance.state_dict(),
            "response": self._response.clone(),
            "noise": self._noise.state_dict(),
            "rounds": self._rounds,
            "has_passed": self._has_passed,
            "pending_rounds": np.array(list(self._pending), np.int64),
            "pending_means": np.array(list(self._pending.values()), np.float64),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._covariance.load_state_dict(state["covariance"])
        self._response = state["response"].clone()
        self._noise.load_state_dict(state["noise"])
        self._rounds, self._has_passed = int(state["rounds"]), bool(state["has_passed"])
        rounds, means = state["pending_rounds"].tolist(), state["pending_means"].tolist()
        self._pending = dict(zip(rounds, means, strict=True))
        self._scored = None


def linear_features(offer: Offer) -> Tensor:
    """[h / rms, 1] of every arm, in the arm's block where arms share an image: float64 (K, p)."""
    h = offer.features
    phi = torch.cat([h, torch.ones(len(h), 1, dtype=h.dtype)], dim=1)
    if offer.is_shared:
        phi = torch.kron(torch.eye(offer.num_arms, dtype=h.dtype), phi)
    return phi
