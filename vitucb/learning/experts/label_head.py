"""A linear head for K labels, fitted to the rewards of chosen labels alone (bandit feedback).

The likelihood of the reward r in [0, 1] of the chosen label a is

    -r log p_a - (1 - r) log(1 - p_a),    p = softmax(W x + b) or sigmoid(W x + b):

of exclusive labels, or of labels that are right or wrong each by itself (Kakade, Shalev-Shwartz
and Tewari, "Efficient bandit algorithms for online multiclass prediction", 2008, has the feedback).
It is a proper score for the mean of r, so graded rewards may be given as they are. The network of
the expert `adapted` has the same losses (`adapted.likelihoods`) and takes their gradients from
autograd; here slopes are written out, since L-BFGS asks for them together with the losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from scipy.optimize import fmin_l_bfgs_b
from torch import Tensor

from vitucb.learning.experts.expert import Array

Likelihood: TypeAlias = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Called as likelihood(logits (n, K), actions (n,), rewards (n,)): losses (n,), slopes (n, K)."""

# 1 - p underflows where logits lie far apart; the loss stays finite.
_LEAST = 1e-12
# Curvature of one observation at even odds: intercepts are held as by one of them.
_EVEN = 0.25
_MEMORY = 8


def softmax_likelihood(logits: Tensor, actions: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of exclusive labels, nats, and their derivatives in the logits.

    Args:
        logits: W x + b, (n, K).
        actions: Chosen labels, int64 (n,).
        rewards: In [0, 1], (n,).

    Returns:
        Losses (n,) and slopes (n, K), (delta_ja - p_j) (p_a - r) / (1 - p_a).
    """
    chosen = actions[:, None]
    p = torch.softmax(logits, dim=1)
    hit = p.gather(1, chosen)[:, 0].clamp_min(_LEAST)
    # The sum of the others, and not 1 - p_a, which cancels where p_a is near 1.
    others = p.scatter(1, chosen, 0.0)
    miss = others.sum(1).clamp_min(_LEAST)
    losses = -rewards * hit.log() - (1 - rewards) * miss.log()
    # With q = 1 - p_a: slope_a = (1 - r) p_a - r q, slope_j = -p_j slope_a / q.
    own = (1 - rewards) * hit - rewards * miss
    slopes = (others * (-own / miss)[:, None]).scatter(1, chosen, own[:, None])
    return losses, slopes


def logistic_likelihood(logits: Tensor, actions: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of labels that are right or wrong each by itself, nats, and their derivatives.

    Args:
        logits: W x + b, (n, K).
        actions: Chosen labels, int64 (n,).
        rewards: In [0, 1], (n,).

    Returns:
        Losses (n,) and slopes (n, K), delta_ja (p_a - r).
    """
    chosen = actions[:, None]
    z = logits.gather(1, chosen)[:, 0]
    losses = torch.nn.functional.binary_cross_entropy_with_logits(z, rewards, reduction="none")
    slopes = torch.zeros_like(logits).scatter(1, chosen, (z.sigmoid() - rewards)[:, None])
    return losses, slopes


LIKELIHOODS: Mapping[str, Likelihood] = {
    "softmax": softmax_likelihood,
    "logistic": logistic_likelihood,
}


@dataclass(frozen=True, slots=True)
class LabelHead:
    """Logits W h + b of K labels.

    Attributes:
        weight: W, float64 (K, d).
        bias: b, float64 (K,).
    """

    weight: Array
    bias: Array

    def logits(self, features: Array) -> Array:
        """Logits (..., K) of features (..., d)."""
        values: Array = features @ self.weight.T + self.bias
        return values


@dataclass(frozen=True, slots=True)
class LabelData:
    """Rewards of chosen labels.

    Attributes:
        features: h, float32 (n, d).
        actions: Chosen labels, int64 (n,).
        rewards: In [0, 1], float32 (n,).
        shares: Weight of each observation in the mean loss, float32 (n,), with sum 1.
        count: How many observations they stand for, of weight 1 each.
    """

    features: Tensor
    actions: Tensor
    rewards: Tensor
    shares: Tensor
    count: float


def centre_and_scale(features: Tensor) -> tuple[Tensor, float]:
    """Mean (d,) and mean deviation over the d features of rows (n, d), for one scalar scale."""
    centre = features.mean(0)
    deviation = float((features - centre).square().mean(0).sqrt().mean())
    if deviation <= 0:  # a single row, or the same image again and again
        deviation = float(features.square().mean().sqrt())
    return centre, deviation if deviation > 0 else 1.0


def fit_head(
    head: LabelHead,
    data: LabelData,
    likelihood: Likelihood,
    *,
    decay: float,
    prior_bias: float,
    iterations: int,
) -> LabelHead:
    """Minimise the penalised mean loss from `head` on, by L-BFGS (Byrd et al. 1995, as in scipy).

    The penalty is decay / count |s W|^2 / 2 with s the mean deviation of the features, and that of
    one observation on b - prior_bias. Features are centred, which changes no solution (b is next
    to free) and takes half of the iterations.

    Args:
        head: Where to start.
        data: The observations.
        likelihood: Of one observation.
        decay: L2 penalty in observations.
        prior_bias: Intercept of a label never chosen.
        iterations: Of L-BFGS at most.
    """
    centre, scale = centre_and_scale(data.features)
    inputs = (data.features - centre) / scale
    centre64 = centre.double().numpy()
    # W h + b = (s W) (h - c) / s + (b + W c).
    start = np.concatenate([head.weight * scale, (head.bias + head.weight @ centre64)[:, None]], 1)
    penalty = np.full(start.shape[1], decay / data.count)
    penalty[-1] = _EVEN / data.count
    prior = np.zeros_like(start)
    prior[:, -1] = prior_bias

    def objective(flat: Array) -> tuple[float, Array]:
        solution = flat.reshape(start.shape)
        both = torch.from_numpy(solution).to(inputs)
        logits = inputs @ both[:, :-1].mT + both[:, -1]
        losses, slopes = likelihood(logits, data.actions, data.rewards)
        slopes = slopes * data.shares[:, None]
        gradient = torch.cat([slopes.mT @ inputs, slopes.sum(0)[:, None]], 1).double().numpy()
        pull = penalty * (solution - prior)
        value = float(losses @ data.shares) + float((pull * (solution - prior)).sum()) / 2
        return value, (gradient + pull).ravel()

    found, _, _ = fmin_l_bfgs_b(objective, start.ravel(), m=_MEMORY, maxiter=iterations)
    solution = found.reshape(start.shape)
    weight = solution[:, :-1] / scale
    return LabelHead(weight, solution[:, -1] - weight @ centre64)
