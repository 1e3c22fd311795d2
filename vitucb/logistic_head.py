"""The reward head of 0/1 rewards: penalised logistic regression on last-layer features.

The counterpart of `vitucb.ridge_head` for the Bernoulli link. Newton's method from the last
solution; leave-one-out errors to first order, e_i / (1 - leverage_i) with the leverages of the
weighted least squares problem of the last step (Pregibon, "Logistic regression diagnostics", 1981).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitucb.types import State

_MAX_LEVERAGE = 0.95
# Curvature of one observation at even odds; brings the ridge to the unit it has for squared loss.
_EVEN = 0.25
_NEWTON_STEPS = 8
_TOLERANCE = 1e-6
# The Hessian is only formed again once the history has grown by this share; Newton's method with
# a slightly old Hessian still converges to the same solution.
_GROWTH = 1.05


class LogisticHead:
    """Logistic regression around a prior head; one per output, on the rewards of its action.

    Minimises sum_i w_i CE(y_i, w' h_i + b) + (ridge m |w - w_0|^2 + b^2) / 8 with m the mean of
    |h|^2, in float64: at even odds the same trade as `RidgeHead`.
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
        outputs, d = prior.weight.shape
        zeros = torch.zeros(outputs, 1)
        self._prior = torch.cat([prior.weight.detach().cpu(), zeros], dim=1).double()
        self._fitted = self._prior.clone()
        self._rows = torch.zeros(0, d + 1, dtype=torch.float64)
        self._rewards, self._weights = torch.zeros(2, 0, dtype=torch.float64)
        self._actions = torch.zeros(0, dtype=torch.int64)
        self._factors = torch.eye(d + 1).double().repeat(outputs, 1, 1)
        self._hessian_counts = [0.0] * outputs

    def put(self, slots: Tensor, features: Tensor, rewards: Tensor, actions: Tensor) -> None:
        """As `RidgeHead.put`; rewards in [0, 1]."""
        more = int(slots.max()) + 1 - len(self._weights)
        if more > 0:
            self._rows = torch.cat([self._rows, self._rows.new_zeros(more, self._rows.shape[1])])
            self._rewards = torch.cat([self._rewards, self._rewards.new_zeros(more)])
            self._weights = torch.cat([self._weights, self._weights.new_zeros(more)])
            self._actions = torch.cat([self._actions, self._actions.new_zeros(more)])
        rewards = rewards.double().cpu()
        is_new = (self._weights[slots] == 0) | (self._rewards[slots] != rewards)
        is_new |= self._actions[slots] != actions
        self._weights[slots] = torch.where(is_new, 1.0, self._weights[slots])
        hidden = features.detach().double().cpu()
        self._rows[slots] = torch.cat([hidden, hidden.new_ones(len(hidden), 1)], dim=1)
        self._rewards[slots], self._actions[slots] = rewards, actions

    def forget(self, gamma: float) -> None:
        """Multiply the weight of every observation by `gamma`."""
        self._weights *= gamma

    def clear(self) -> None:
        """Forget every observation; the last fit stays in the head until the next one."""
        self._rows, self._actions = self._rows[:0], self._actions[:0]
        self._rewards, self._weights = self._rewards[:0], self._weights[:0]
        self._hessian_counts = [0.0] * len(self._prior)

    def fit(self, head: nn.Linear, mean: float, std: float) -> None:
        """Solve for the best head and write it into `head`; `mean` and `std` are 0 and 1."""
        for action in range(len(self._prior)):
            self._fit_output(action)
        with torch.no_grad():
            head.weight.copy_(self._fitted[:, :-1])
            head.bias.copy_(self._fitted[:, -1])

    def _fit_output(self, action: int) -> None:
        of = self._actions == action
        x, y, weights = self._rows[of], self._rewards[of], self._weights[of]
        if not len(x):
            return
        penalty = torch.full_like(self._prior[action], self.ridge * _EVEN)
        penalty *= x[:, :-1].square().sum(1).mean().clamp_min(1e-12)
        penalty[-1] = _EVEN
        theta, prior = self._fitted[action].clone(), self._prior[action]
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
        actions, x = self._actions[slots], self._rows[slots]
        p = torch.sigmoid((x * self._fitted[actions]).sum(1))
        leverage = torch.empty_like(p)
        for action in set(actions.tolist()):
            of = actions == action
            whitened = torch.linalg.solve_triangular(self._factors[action], x[of].T, upper=False)
            leverage[of] = whitened.square().sum(dim=0)
        leverage = (leverage * self._weights[slots] * p * (1 - p)).clamp_max(_MAX_LEVERAGE)
        left_out: Tensor = (p - self._rewards[slots]) / (1 - leverage)
        return left_out

    def state_dict(self) -> State:
        """History, prior, solution and Hessian factors."""
        return {
            "rows": self._rows.clone(),
            "rewards": self._rewards.clone(),
            "weights": self._weights.clone(),
            "actions": self._actions.clone(),
            "prior": self._prior.clone(),
            "fitted": self._fitted.clone(),
            "factors": self._factors.clone(),
            "hessian_counts": list(self._hessian_counts),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._rows, self._rewards = state["rows"].clone(), state["rewards"].clone()
        self._weights, self._actions = state["weights"].clone(), state["actions"].clone()
        self._prior, self._fitted = state["prior"].clone(), state["fitted"].clone()
        self._factors = state["factors"].clone()
        self._hessian_counts = [float(count) for count in state["hessian_counts"]]
