"""The reward head in closed form, and the errors its rewards would have had without themselves.

Given the features H of the history, the best linear head is a ridge regression, so it need not be
searched for by gradient steps: only the adapters are (variable projection; Golub and Pereyra, "The
differentiation of pseudo-inverses and nonlinear least squares problems", 1973; Riquelme et al.,
"Deep Bayesian bandits showdown", 2018, for its use in bandits).

A head that has already fitted a reward leaves little error to learn features from. The adapters are
therefore trained on leave-one-out errors, e_i / (1 - leverage_i), which ridge regression gives
without refitting (Allen, "The relationship between variable selection and data augmentation and a
method for prediction", 1974).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitucb.types import State

# Leave-one-out divides by 1 - leverage; a lone point has leverage 1 and no error to speak of.
_MAX_LEVERAGE = 0.95


class RidgeHead:
    """Ridge regression of rewards on last-layer features, around a prior head.

    Minimises sum_i (y_i - w' h_i - b)^2 + ridge m |w - w_0|^2 with m the mean |h|^2 and a free
    intercept b, in float64.
    """

    def __init__(self, prior: nn.Linear, ridge: float) -> None:
        """Start from a prior.

        Args:
            prior: Head (d -> 1) whose weight is w_0; read once.
            ridge: Regularisation per unit of mean squared feature norm, > 0.

        Raises:
            ValueError: If `ridge` is not positive.
        """
        if not ridge > 0:
            raise ValueError(f"agent.head_ridge {ridge} must be above 0")
        self.ridge = ridge
        self._prior = prior.weight.detach().double().cpu().flatten()
        self._features = torch.zeros(0, len(self._prior), dtype=torch.float64)
        self._count = 0
        self._centre, self._factor = torch.zeros_like(self._prior), torch.eye(self.dim).double()
        self._errors = torch.zeros(0, dtype=torch.float64)

    @property
    def dim(self) -> int:
        """Number of features d."""
        return len(self._prior)

    def set(self, slots: Tensor, features: Tensor) -> None:
        """Put or refresh the features of observations.

        Args:
            slots: Where in the history, int64 (b,); new slots follow the last one without gaps.
            features: Last-layer features of today's model, (b, d).
        """
        self._count = max(self._count, int(slots.max()) + 1)
        if self._count > len(self._features):
            more = max(self._count, 2 * len(self._features), 64) - len(self._features)
            self._features = torch.cat([self._features, self._features.new_zeros(more, self.dim)])
        self._features[slots] = features.detach().double().cpu()

    def fit(self, head: nn.Linear, rewards: Tensor) -> None:
        """Solve for the best head and write it into `head`.

        Args:
            head: Head (d -> 1) to write.
            rewards: Rewards of all observations, float64 (n,).
        """
        h = self._features[: self._count]
        self._centre = h.mean(dim=0)
        centred = h - self._centre
        gram = centred.T @ centred
        gram.diagonal().add_(self.ridge * float(h.square().sum(dim=1).mean().clamp_min(1e-12)))
        self._factor = torch.linalg.cholesky(gram)
        unexplained = rewards - rewards.mean() - centred @ self._prior
        step = torch.cholesky_solve((centred.T @ unexplained)[:, None], self._factor)[:, 0]
        self._errors = centred @ step - unexplained
        weight = self._prior + step
        with torch.no_grad():
            head.weight.copy_(weight[None])
            head.bias.fill_(float(rewards.mean() - self._centre @ weight))

    def leave_one_out_errors(self, slots: Tensor) -> Tensor:
        """Prediction minus reward at `slots` (b,), each left out of the fit: float64 (b,)."""
        centred = (self._features[slots] - self._centre).T
        whitened = torch.linalg.solve_triangular(self._factor, centred, upper=False)
        leverage = whitened.square().sum(dim=0) + 1 / self._count
        errors: Tensor = self._errors[slots] / (1 - leverage.clamp_max(_MAX_LEVERAGE))
        return errors

    def state_dict(self) -> State:
        """Features of the history, and the prior; the fit follows from them and the rewards."""
        return {"features": self._features[: self._count].clone(), "prior": self._prior.clone()}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._features, self._prior = state["features"].clone(), state["prior"].clone()
        self._count = len(self._features)
