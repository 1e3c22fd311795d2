"""The reward head in closed form, and the errors its rewards would have had without themselves.

Given the features H of the history, the best linear head is a ridge regression, so it need not be
searched for by gradient steps: only the adapters are (variable projection; Golub and Pereyra, "The
differentiation of pseudo-inverses and nonlinear least squares problems", 1973; Riquelme et al.,
"Deep Bayesian bandits showdown", 2018, for its use in bandits).

A head that has already fitted a reward leaves little error to learn features from. The adapters are
therefore trained on leave-one-out errors, e_i / (1 - leverage_i), which ridge regression gives
without refitting (Allen, "The relationship between variable selection and data augmentation and a
method for prediction", 1974).

Observations enter as sums of outer products, so that refreshing the features of b observations and
refitting cost O(b d^2 + d^3), whatever the length of the history.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitucb.types import State

# Leave-one-out divides by 1 - leverage; a lone point has leverage 1 and no error to speak of.
_MAX_LEVERAGE = 0.95
# Weight of the prior guess 0 of an intercept, where several outputs must be compared: a free one
# would trust the first reward of an action completely.
_INTERCEPT_COUNT = 1.0


class RidgeHead:
    """Ridge regression of rewards on last-layer features, around a prior head; one per output.

    For each output, over the observations of its action, minimises
    sum_i w_i (y_i - w' h_i - b)^2 + ridge m |w - w_0|^2 with m the weighted mean of |h|^2, in
    float64. With a single output the intercept b is free; with several it is drawn to 0, the mean
    of the targets, with the weight of one observation.
    """

    def __init__(self, prior: nn.Linear, ridge: float) -> None:
        """Start from a prior.

        Args:
            prior: Head (d -> outputs) whose weight is w_0; read once.
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
        # [h; 1; r] [h; 1; r]' summed by output: every sum a fit needs.
        self._moments = torch.zeros(self.outputs, self.dim + 2, self.dim + 2).double()
        self._centre = torch.zeros_like(self._prior)
        self._factor = torch.eye(self.dim).double().expand(self.outputs, -1, -1)
        self._count = torch.zeros(self.outputs).double()
        self._fitted = torch.zeros(self.outputs, self.dim + 1).double()
        self._mean, self._std = 0.0, 1.0

    @property
    def outputs(self) -> int:
        """Number of outputs of the head."""
        return len(self._prior)

    @property
    def dim(self) -> int:
        """Number of features d."""
        return self._prior.shape[1]

    def put(self, slots: Tensor, features: Tensor, rewards: Tensor, actions: Tensor) -> None:
        """Put observations into the history, or refresh the features of those already there.

        Args:
            slots: Where in the history, int64 (b,), no repeats; new slots follow the last one
                without gaps. An observation with another reward or action replaces the old one.
            features: Last-layer features of today's model, (b, d).
            rewards: Reward of each, (b,).
            actions: Output that each belongs to, int64 (b,); all 0 with a single output.
        """
        self._grow(int(slots.max()) + 1)
        rewards = rewards.double().cpu()
        is_new = (self._weights[slots] == 0) | (self._rewards[slots] != rewards)
        is_new |= self._actions[slots] != actions
        self._add(slots, -1.0)
        self._weights[slots] = torch.where(is_new, 1.0, self._weights[slots])
        self._features[slots] = features.detach().double().cpu()
        self._rewards[slots], self._actions[slots] = rewards, actions
        self._add(slots, 1.0)

    def forget(self, gamma: float) -> None:
        """Multiply the weight of every observation by `gamma`."""
        self._weights *= gamma
        self._moments *= gamma

    def clear(self) -> None:
        """Forget every observation; the last fit stays in the head until the next one."""
        self._features, self._actions = self._features[:0], self._actions[:0]
        self._rewards, self._weights = self._rewards[:0], self._weights[:0]
        self._moments.zero_()

    def fit(self, head: nn.Linear, mean: float, std: float) -> None:
        """Solve for the best head and write it into `head`.

        Args:
            head: Head (d -> outputs) to write.
            mean: Mean of the rewards; the targets are (reward - mean) / std.
            std: Their unit.
        """
        d = self.dim
        self._mean, self._std = mean, std
        self._count = self._moments[:, d, d].clone()
        count = self._count[:, None].clamp_min(1e-12)
        total, squares = self._moments[:, :d, d], self._moments[:, :d, :d]
        self._centre = total / count
        gram = squares - self._centre[:, :, None] * total[:, None, :]
        size = (squares.diagonal(dim1=1, dim2=2).sum(1) / count[:, 0]).clamp_min(1e-12)
        target = (self._moments[:, d, d + 1] / count[:, 0] - mean) / std
        products = (self._moments[:, :d, d + 1] - mean * total) / std - target[:, None] * total
        unexplained = products - (gram @ self._prior[:, :, None])[:, :, 0]
        gram.diagonal(dim1=1, dim2=2).add_(self.ridge * size[:, None])
        self._factor = torch.linalg.cholesky(gram)
        weight = self._prior + torch.cholesky_solve(unexplained[:, :, None], self._factor)[:, :, 0]
        if self.outputs > 1:
            target = target * count[:, 0] / (count[:, 0] + _INTERCEPT_COUNT)
        bias = target - (self._centre * weight).sum(1)
        self._fitted = torch.cat([weight, bias[:, None]], dim=1)
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.copy_(bias)

    def leave_one_out_errors(self, slots: Tensor) -> Tensor:
        """Prediction minus target at `slots` (b,), each left out of the fit: float64 (b,).

        Exact with a free intercept. The ridge keeps the unit it has with the point.
        """
        actions, features = self._actions[slots], self._features[slots]
        fitted = self._fitted[actions]
        target = (self._rewards[slots] - self._mean) / self._std
        errors = (features * fitted[:, :-1]).sum(1) + fitted[:, -1] - target
        leverage = torch.empty_like(errors)
        for action in set(actions.tolist()):
            of = actions == action
            centred = (features[of] - self._centre[action]).T
            whitened = torch.linalg.solve_triangular(self._factor[action], centred, upper=False)
            leverage[of] = whitened.square().sum(dim=0) + 1 / self._count[action]
        leverage = (leverage * self._weights[slots]).clamp_max(_MAX_LEVERAGE)
        left_out: Tensor = errors / (1 - leverage)
        return left_out

    def _grow(self, size: int) -> None:
        more = size - len(self._weights)
        if more > 0:
            self._features = torch.cat([self._features, self._features.new_zeros(more, self.dim)])
            self._rewards = torch.cat([self._rewards, self._rewards.new_zeros(more)])
            self._weights = torch.cat([self._weights, self._weights.new_zeros(more)])
            self._actions = torch.cat([self._actions, self._actions.new_zeros(more)])

    def _add(self, slots: Tensor, sign: float) -> None:
        """Add or take away the moments of the observations at `slots`."""
        ones = self._rewards.new_ones(len(slots), 1)
        rows = torch.cat([self._features[slots], ones, self._rewards[slots, None]], dim=1)
        weighted = sign * self._weights[slots, None] * rows
        for action in set(self._actions[slots].tolist()):
            of = self._actions[slots] == action
            self._moments[action].addmm_(weighted[of].T, rows[of])

    def state_dict(self) -> State:
        """History, sums and prior; the fit follows from them and the unit of the rewards."""
        return {
            "features": self._features.clone(),
            "rewards": self._rewards.clone(),
            "weights": self._weights.clone(),
            "actions": self._actions.clone(),
            "moments": self._moments.clone(),
            "prior": self._prior.clone(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._features, self._rewards = state["features"].clone(), state["rewards"].clone()
        self._weights, self._actions = state["weights"].clone(), state["actions"].clone()
        self._moments, self._prior = state["moments"].clone(), state["prior"].clone()
