"""Reward links: how scores become rewards, which loss they imply, and what a width is worth.

What each says about confidence:

* `gaussian`: rewards are score + noise. With A the covariance of the features, |f - f*| is at most
  beta phi' A^-1 phi ^ 1/2 for all rounds at once with probability 1 - delta, where beta grows with
  sqrt(log det A) (Abbasi-Yadkori et al., "Improved algorithms for linear stochastic bandits", 2011,
  theorem 2). It holds for a model that is linear in its features; for a network it is a heuristic,
  and so is a constant alpha.
* `bernoulli`: P(reward = 1) = sigmoid(score). A counts every observation with its curvature
  p (1 - p), so that the width is one of logits (Faury et al., "Improved optimistic algorithms for
  logistic bandits", 2020). The mean is that of the Laplace posterior, sigmoid(f / sqrt(1 + pi s^2 /
  8)) (MacKay, "The evidence framework applied to classification networks", 1992). Their radius is
  vacuous for as many features as adapters have, so alpha is a constant here too.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from vitucb.learning.reward_scale import ResidualNoise, RewardScale
from vitucb.types import State, UnusableRewardError

# Curvature of a saturated prediction; below it an observation would count for nothing.
_LEAST_CURVATURE = 1e-3


class Link(Protocol):
    """From rewards to targets of the score, and from scores back to rewards."""

    @property
    def mean(self) -> float:
        """Targets are (reward - mean) / std."""
        ...

    @property
    def std(self) -> float:
        """Targets are (reward - mean) / std."""
        ...

    @property
    def width_scale(self) -> float:
        """Width on the scale of `decision_scale`, per unit of sqrt(phi' A^-1 phi)."""
        ...

    def decision_scale(self, score: NDArray[np.float64]) -> NDArray[np.float64]:
        """What optimism and posterior sampling compare; increasing in the score."""
        ...

    def reward(
        self, values: NDArray[np.float64], width: NDArray[np.float64] | float = 0.0
    ) -> NDArray[np.float64]:
        """Expected rewards of values on the decision scale that are uncertain by `width`."""
        ...

    def weight(self, score: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weight of an observation in the covariance."""
        ...

    def check(self, *rewards: float) -> None:
        """Refuse rewards that the link cannot have produced.

        Raises:
            UnusableRewardError: If there is one.
        """
        ...

    def add(self, reward: float) -> None:
        """Take in one reward."""
        ...

    def add_error(self, error: float) -> None:
        """Take in reward minus prediction, made before the reward was seen."""
        ...

    def loss(self, score: Tensor, reward: Tensor) -> Tensor:
        """Mean loss of scores (b,) for rewards (b,)."""
        ...

    def state_dict(self) -> State:
        """Running estimates."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        ...


class GaussianLink:
    """Squared loss on rewards in units of their running mean and standard deviation."""

    def __init__(self) -> None:
        self._scale, self._noise = RewardScale(), ResidualNoise()

    @property
    def mean(self) -> float:
        """Mean of the rewards so far."""
        return self._scale.mean

    @property
    def std(self) -> float:
        """Standard deviation of the rewards so far; see `RewardScale.std`."""
        return self._scale.std

    @property
    def width_scale(self) -> float:
        """Standard deviation of the prediction errors, reward units."""
        return self._noise.std

    def decision_scale(self, score: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores in reward units."""
        return self._scale.mean + self._scale.std * score

    def reward(
        self, values: NDArray[np.float64], width: NDArray[np.float64] | float = 0.0
    ) -> NDArray[np.float64]:
        """The values."""
        return values

    def weight(self, score: NDArray[np.float64]) -> NDArray[np.float64]:
        """1."""
        return np.ones_like(score)

    def check(self, *rewards: float) -> None:
        """Nothing to refuse."""

    def add(self, reward: float) -> None:
        """Take in one reward."""
        self._scale.add(reward)
        self._noise.see(reward)

    def add_error(self, error: float) -> None:
        """Take in one prediction error."""
        self._noise.add(error)

    def loss(self, score: Tensor, reward: Tensor) -> Tensor:
        """Mean squared error in units of the reward variance."""
        return (score - (reward - self.mean) / self.std).square().mean()

    def state_dict(self) -> State:
        """Reward scale and noise."""
        return {"scale": self._scale.state_dict(), "noise": self._noise.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._scale.load_state_dict(state["scale"])
        self._noise.load_state_dict(state["noise"])


class BernoulliLink:
    """Logistic loss; the score is the log-odds of reward 1."""

    mean, std, width_scale = 0.0, 1.0, 1.0

    def decision_scale(self, score: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log-odds."""
        return score

    def reward(
        self, values: NDArray[np.float64], width: NDArray[np.float64] | float = 0.0
    ) -> NDArray[np.float64]:
        """Probability of reward 1 when the log-odds are N(values, width^2); probit formula."""
        return _sigmoid(values / np.sqrt(1 + np.pi * np.square(width) / 8))

    def weight(self, score: NDArray[np.float64]) -> NDArray[np.float64]:
        """Curvature p (1 - p) of the loss, at least 0.001."""
        p = _sigmoid(score)
        return np.maximum(p * (1 - p), _LEAST_CURVATURE)

    def check(self, *rewards: float) -> None:
        """Refuse what is no reward of this link.

        Raises:
            UnusableRewardError: If one is outside [0, 1].
        """
        for reward in rewards:
            if not 0 <= reward <= 1:
                raise UnusableRewardError(
                    f"reward {reward} is outside [0, 1]; agent.link bernoulli needs 0/1 rewards, "
                    "use gaussian"
                )

    def add(self, reward: float) -> None:
        """Check one reward.

        Raises:
            UnusableRewardError: If it is outside [0, 1].
        """
        self.check(reward)

    def add_error(self, error: float) -> None:
        """Nothing: the noise follows from the probability."""

    def loss(self, score: Tensor, reward: Tensor) -> Tensor:
        """Mean cross entropy, nats."""
        return binary_cross_entropy_with_logits(score, reward)

    def state_dict(self) -> State:
        """Empty."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Nothing to restore."""


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    values: NDArray[np.float64] = torch.sigmoid(torch.as_tensor(x)).numpy()
    return values


LINKS: dict[str, type[GaussianLink] | type[BernoulliLink]] = {
    "gaussian": GaussianLink,
    "bernoulli": BernoulliLink,
}
