"""The reward head of 0/1 rewards: penalised logistic regression on last-layer features.

The counterpart of `ridge_head` for the Bernoulli link. Newton's method from the last
solution; leave-one-out errors to first order, e_i / (1 - leverage_i) with the leverages of the
weighted least squares problem of the last step (Pregibon, "Logistic regression diagnostics", 1981).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitucb.learning.closed_form_head import ClosedFormHead
from vitucb.types import State

_MAX_LEVERAGE = 0.95
# Curvature of one observation at even odds; brings the ridge to the unit it has for squared loss.
_EVEN = 0.25
_NEWTON_STEPS = 8
_TOLERANCE = 1e-6
# The Hessian is only formed again once the history has grown by this share; Newton's method with
# a slightly old Hessian still converges to the same solution.
_GROWTH = 1.05


class LogisticHead(ClosedFormHead):
    """Logistic regression around a prior head; one per output, on the rewards of its action.

    Minimises sum_i w_i CE(y_i, w' h_i + b) + (ridge m |w - w_0|^2 + b^2) / 8 with m the mean of
    |h|^2, in float64: at even odds the same trade as `RidgeHead`.
    """

    def __init__(self, prior: nn.Linear, ridge: float) -> None:
        """As `ClosedFormHead`; the weight of `prior` is w_0, and rewards lie in [0, 1]."""
        super().__init__(prior, ridge)
        # Weight and intercept of every output.
        self._fitted = torch.cat([self._prior, self._prior.new_zeros(self.outputs, 1)], dim=1)
        self._factors = torch.eye(self.dim + 1).double().repeat(self.outputs, 1, 1)
        self._hessian_counts = [0.0] * self.outputs

    def clear(self) -> None:
        """Forget every observation; the last fit stays in the head until the next one."""
        super().clear()
        self._hessian_counts = [0.0] * self.outputs

    def fit(self, head: nn.Linear, mean: float, std: float) -> None:
        """Solve for the best head and write it into `head`; `mean` and `std` are 0 and 1."""
        for action in range(self.outputs):
            self._fit_output(action)
        with torch.no_grad():
            head.weight.copy_(self._fitted[:, :-1])
            head.bias.copy_(self._fitted[:, -1])

    def _fit_output(self, action: int) -> None:
        of = self._actions == action
        x, y, weights = self._rows(of), self._rewards[of], self._weights[of]
        if not len(x):
            return
        prior = torch.cat([self._prior[action], self._prior.new_zeros(1)])
        penalty = torch.full_like(prior, self.ridge * _EVEN)
        penalty *= x[:, :-1].square().sum(1).mean().clamp_min(1e-12)
        penalty[-1] = _EVEN
        theta = self._fitted[action].clone()
        is_fresh = len(x) > _GROWTH * self._hessian_counts[action]
        for _ in range(_NEWTON_STEPS):
            p = torch.sigmoid(x @ theta)
            if is_fresh:
                curvature = (weights * p * (1 - p))[:, None]
                hessian = (x * curvature).T @ x + torch.diag(penalty)
                self._factors[action] = torch.linalg.cholesky(hessian)
                self._hessian_counts[action] = float(len(x))
            gradient = x.T @ (weights * (p - y)) + penalty * (theta - prior)
            step = torch.cholesky_solve(gradient[:, None], self._factors[action])[:, 0]
            # Newton's step on logits is safe up to about 1; longer ones can overshoot.
            change = float((x @ step).abs().max())
            theta = theta - step / max(1.0, change / 2)
            if change < _TOLERANCE:
                break
            is_fresh = is_fresh or change > 0.5
        self._fitted[action] = theta

    def leave_one_out_errors(self, slots: Tensor) -> Tensor:
        """P(reward = 1) minus reward at `slots` (b,), each left out to first order: float64."""
        actions, x = self._actions[slots], self._rows(slots)
        p = torch.sigmoid((x * self._fitted[actions]).sum(1))
        leverage = torch.empty_like(p)
        for action in set(actions.tolist()):
            of = actions == action
            whitened = torch.linalg.solve_triangular(self._factors[action], x[of].T, upper=False)
            leverage[of] = whitened.square().sum(dim=0)
        leverage = (leverage * self._weights[slots] * p * (1 - p)).clamp_max(_MAX_LEVERAGE)
        left_out: Tensor = (p - self._rewards[slots]) / (1 - leverage)
        return left_out

    def _rows(self, which: Tensor) -> Tensor:
        """[h; 1] of observations, by slot or mask."""
        hidden = self._features[which]
        return torch.cat([hidden, hidden.new_ones(len(hidden), 1)], dim=1)

    def state_dict(self) -> State:
        """History, prior, solution and Hessian factors."""
        return super().state_dict() | {
            "fitted": self._fitted.clone(),
            "factors": self._factors.clone(),
            "hessian_counts": list(self._hessian_counts),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._fitted, self._factors = state["fitted"].clone(), state["factors"].clone()
        self._hessian_counts = [float(count) for count in state["hessian_counts"]]
