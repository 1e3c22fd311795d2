"""A reward head solved in closed form, and the observations it is solved from."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitucb.types import State


class ClosedFormHead(abc.ABC):
    """A linear head solved from the features of the history; a solver derives from it.

    Attributes:
        ridge: Regularisation per unit of mean squared feature norm.
    """

    def __init__(self, prior: nn.Linear, ridge: float) -> None:
        """Start without observations.

        Args:
            prior: Head (d -> outputs) whose weight is the prior guess; read once.
            ridge: Regularisation per unit of mean squared feature norm, > 0.

        Raises:
            ValueError: If `ridge` is not positive.
        """
        if not ridge > 0:
            raise ValueError(f"agent.head_ridge {ridge} must be above 0")
        self.ridge = ridge
        self._prior = prior.weight.detach().double().cpu().clone()
        self._features = torch.zeros(0, self.dim, dtype=torch.float64)
        self._rewards, self._weights = torch.zeros(2, 0, dtype=torch.float64)
        self._actions = torch.zeros(0, dtype=torch.int64)

    @property
    def outputs(self) -> int:
        """Number of outputs of the head."""
        return len(self._prior)

    @property
    def dim(self) -> int:
        """Number of features d."""
        return self._prior.shape[1]

    @abc.abstractmethod
    def fit(self, head: nn.Linear, mean: float, std: float) -> None:
        """Solve and write into `head`; targets are (reward - mean) / std."""

    @abc.abstractmethod
    def leave_one_out_errors(self, slots: Tensor) -> Tensor:
        """Prediction minus target, each without its own observation: float64 (b,)."""

    def put(
        self,
        slots: Tensor,
        features: Tensor,
        rewards: Tensor,
        actions: Tensor,
        new: Sequence[int] = (),
    ) -> None:
        """Put observations into the history, or refresh the features of those already there.

        Args:
            slots: Where in the history, int64 (b,), no repeats; new slots follow the last one
                without gaps.
            features: Last-layer features of today's model, (b, d).
            rewards: Reward of each, (b,).
            actions: Output that each belongs to, int64 (b,); all 0 with a single output.
            new: Those of `slots` whose observation is not the one put there before: it counts in
                full. Slots beyond the history are new anyway.
        """
        self._grow(int(slots.max()) + 1)
        rewards = rewards.double().cpu()
        is_new = self._weights[slots] == 0
        is_new |= torch.isin(slots, torch.as_tensor(new, dtype=slots.dtype))
        self._weights[slots] = torch.where(is_new, 1.0, self._weights[slots])
        self._features[slots] = features.detach().double().cpu()
        self._rewards[slots], self._actions[slots] = rewards, actions

    def forget(self, gamma: float) -> None:
        """Multiply the weight of every observation by `gamma`."""
        # Never 0, which marks a slot that nothing was put into.
        self._weights.mul_(gamma).clamp_(min=torch.finfo(self._weights.dtype).tiny)

    def clear(self) -> None:
        """Forget every observation; the last fit stays in the head until the next one."""
        self._features, self._actions = self._features[:0], self._actions[:0]
        self._rewards, self._weights = self._rewards[:0], self._weights[:0]

    def _grow(self, size: int) -> None:
        more = size - len(self._weights)
        if more > 0:
            self._features = torch.cat([self._features, self._features.new_zeros(more, self.dim)])
            self._rewards = torch.cat([self._rewards, self._rewards.new_zeros(more)])
            self._weights = torch.cat([self._weights, self._weights.new_zeros(more)])
            self._actions = torch.cat([self._actions, self._actions.new_zeros(more)])

    def state_dict(self) -> State:
        """Observations and prior."""
        return {
            "features": self._features.clone(),
            "rewards": self._rewards.clone(),
            "weights": self._weights.clone(),
            "actions": self._actions.clone(),
            "prior": self._prior.clone(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._features, self._rewards = state["features"].clone(), state["rewards"].clone()
        self._weights, self._actions = state["weights"].clone(), state["actions"].clone()
        self._prior = state["prior"].clone()
