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

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitucb.learning.closed_form_head import ClosedFormHead
from vitucb.types import State

# Leave-one-out divides by 1 - leverage; a lone point has leverage 1 and no error to speak of.
_MAX_LEVERAGE = 0.95
# Weight of the prior guess 0 of an intercept, where several outputs must be compared: a free one
# would trust the first reward of an action completely.
_INTERCEPT_COUNT = 1.0


class RidgeHead(ClosedFormHead):
    """Ridge regression of rewards on last-layer features, around a prior head; one per output.

    For each output, over the observations of its action, minimises
    sum_i w_i (y_i - w' h_i - b)^2 + ridge m |w - w_0|^2 with m the weighted mean of |h|^2, in
    float64. With a single output the intercept b is free; with several it is drawn to 0, the mean
    of the targets, with the weight of one observation.
    """

    def __init__(self, prior: nn.Linear, ridge: float) -> None:
        """As `ClosedFormHead`; the weight of `prior` is w_0."""
        super().__init__(prior, ridge)
        # [h; 1; r] [h; 1; r]' summed by output: every sum a fit needs.
        self._moments = torch.zeros(self.outputs, self.dim + 2, self.dim + 2).double()
        self._centre = torch.zeros_like(self._prior)
        self._factor = torch.eye(self.dim).double().expand(self.outputs, -1, -1)
        self._count = torch.zeros(self.outputs).double()
        self._fitted = torch.zeros(self.outputs, self.dim + 1).double()
        self._mean, self._std = 0.0, 1.0

    def put(
        self,
        slots: Tensor,
        features: Tensor,
        rewards: Tensor,
        actions: Tensor,
        new: Sequence[int] = (),
    ) -> None:
        """As `ClosedFormHead.put`."""
        self._grow(int(slots.max()) + 1)
        before = set(self._actions[slots].tolist())
        self._add(slots, -1.0)
        super().put(slots, features, rewards, actions, new)
        self._add(slots, 1.0)
        held = self._actions[self._weights > 0]
        for action in before - set(actions.tolist()):
            # What is left of sums without a term is rounding, and may be below 0.
            if not (held == action).any():
                self._moments[action].zero_()

    def forget(self, gamma: float) -> None:
        """Multiply the weight of every observation by `gamma`."""
        super().forget(gamma)
        self._moments *= gamma

    def clear(self) -> None:
        """Forget every observation; the last fit stays in the head until the next one."""
        super().clear()
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

    def _add(self, slots: Tensor, sign: float) -> None:
        """Add or take away the moments of the observations at `slots`."""
        ones = self._rewards.new_ones(len(slots), 1)
        rows = torch.cat([self._features[slots], ones, self._rewards[slots, None]], dim=1)
        weighted = sign * self._weights[slots, None] * rows
        for action in set(self._actions[slots].tolist()):
            of = self._actions[slots] == action
            self._moments[action].addmm_(weighted[of].T, rows[of])

    def state_dict(self) -> State:
        """History, prior and sums; the fit follows from them and the unit of the rewards."""
        return super().state_dict() | {"moments": self._moments.clone()}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._moments = state["moments"].clone()
