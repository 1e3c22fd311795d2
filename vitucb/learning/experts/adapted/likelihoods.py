"""How outputs of a network become expected rewards, and the loss that a reward on one arm implies.

* `softmax`: one image, K labels of which one is right. The outputs are log-odds of a distribution p
  over the labels, and the reward of label a is 1 with probability p_a. A reward of 0 tells as much
  as the label allows: -log p_a for reward 1, -log(1 - p_a) for reward 0, and r and 1 - r times
  these for rewards in between.
* `logistic`: the reward of each arm is 1 with probability sigmoid(output), whatever those of the
  others are: several labels, or none, may be right.
* `squared`: rewards in any unit; outputs are rewards in units of their deviation around their mean.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from vitucb.learning.reward_scale import RewardScale
from vitucb.types import State


def softmax_bandit_loss(outputs: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
    """Mean of -r log p_a - (1 - r) log(1 - p_a), nats, for p the softmax of the outputs.

    The log of 1 - p_a is taken from the outputs of the other labels, so that the gradient in every
    output is at most 1, even where p_a has rounded to 1.

    Args:
        outputs: Log-odds of the labels, (b, K), K at least 2.
        actions: Chosen label, int64 (b,).
        rewards: In [0, 1], (b,).
    """
    chosen = outputs.gather(1, actions[:, None])[:, 0]
    others = outputs.scatter(1, actions[:, None], -torch.inf).logsumexp(dim=1)
    whole = outputs.logsumexp(dim=1)
    return (whole - rewards * chosen - (1 - rewards) * others).mean()


class Likelihood(Protocol):
    """From outputs to expected rewards, and from rewards to a loss."""

    def accepts(self, reward: float) -> bool:
        """Whether the likelihood can have produced `reward`."""
        ...

    def mean(self, outputs: Tensor) -> Tensor:
        """Expected rewards (n, K) of outputs (n, K)."""
        ...

    def loss(self, outputs: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
        """Mean loss of outputs (b, K) for the rewards (b,) of actions int64 (b,)."""
        ...


class _Probabilities:
    """What likelihoods of rewards in [0, 1] share; they estimate nothing themselves."""

    def accepts(self, reward: float) -> bool:
        """Whether it is in [0, 1]."""
        return 0 <= reward <= 1


class SoftmaxLikelihood(_Probabilities):
    """One of K labels is right."""

    def mean(self, outputs: Tensor) -> Tensor:
        """Probabilities of the labels."""
        return outputs.softmax(dim=1)

    def loss(self, outputs: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
        """See `softmax_bandit_loss`."""
        return softmax_bandit_loss(outputs, actions, rewards)


class LogisticLikelihood(_Probabilities):
    """Every arm has a probability of its own."""

    def mean(self, outputs: Tensor) -> Tensor:
        """Probabilities of reward 1."""
        return outputs.sigmoid()

    def loss(self, outputs: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
        """Mean cross entropy of the chosen arms, nats."""
        chosen = outputs.gather(1, actions[:, None])[:, 0]
        return binary_cross_entropy_with_logits(chosen, rewards)


class SquaredLikelihood:
    """Normal rewards of any mean and unit."""

    def __init__(self) -> None:
        self._scale = RewardScale()

    def accepts(self, reward: float) -> bool:
        """Every reward."""
        return True

    def add(self, reward: float) -> None:
        """Take in one reward for mean and deviation."""
        self._scale.add(reward)

    def mean(self, outputs: Tensor) -> Tensor:
        """Outputs in reward units."""
        return self._scale.mean + self._scale.std * outputs

    def loss(self, outputs: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
        """Mean squared error in units of the reward variance."""
        chosen = outputs.gather(1, actions[:, None])[:, 0]
        targets = (rewards.double() - self._scale.mean) / self._scale.std
        return (chosen - targets.to(chosen)).square().mean()

    def state_dict(self) -> State:
        """Mean and deviation of the rewards."""
        return {"scale": self._scale.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._scale.load_state_dict(state["scale"])


LIKELIHOODS: dict[str, type[SoftmaxLikelihood | LogisticLikelihood | SquaredLikelihood]] = {
    "softmax": SoftmaxLikelihood,
    "logistic": LogisticLikelihood,
    "squared": SquaredLikelihood,
}
