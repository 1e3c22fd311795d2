"""Models of a log: mean rewards for off-policy evaluation, and propensities where none were kept.

Rewards are cross-fitted: the estimate for a round comes from a model that never saw that round, so
that the correction of the doubly robust estimator is not fitted away (Chernozhukov et al.,
"Double/debiased machine learning" - https://arxiv.org/abs/1608.00060). Propensities of arms with
features come from the conditional logit model of McFadden, "Conditional logit analysis of
qualitative choice behavior", 1974: p(a) proportional to exp(theta' z_a), one theta for all arms;
those of actions on a shared context from a multinomial one, exp(w_a' x + b_a).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from vitucb.policies.choice import Array

_FOLDS = 5
_NEWTON_STEPS = 50
_NEWTON_TOLERANCE = 1e-10
_MOST_STEPS = 1_000


def ridge_fit(x: Array, y: Array, ridge: float) -> tuple[Array, float]:
    """Ridge regression with a free intercept: argmin sum (y - x w - b)^2 + ridge m |w|^2.

    Args:
        x: Features (n, d).
        y: Targets (n,).
        ridge: Regularisation in units of m, the mean squared norm of the centred features.

    Returns:
        w (d,) and b.
    """
    centre = x.mean(axis=0)
    centred = x - centre
    gram = centred.T @ centred
    scale = float(np.trace(gram)) / len(x)
    gram[np.diag_indices_from(gram)] += max(ridge * scale, 1e-12)
    w: Array = np.linalg.solve(gram, centred.T @ (y - y.mean()))
    return w, float(y.mean() - centre @ w)


def cross_fitted_rewards(
    features: NDArray[np.floating],
    actions: NDArray[np.int64],
    rewards: Array,
    rng: np.random.Generator,
    *,
    num_arms: int | None = None,
    ridge: float = 1.0,
) -> Array:
    """Estimated mean reward of every arm in every round, from the other folds' rounds.

    Args:
        features: (n, K, d), a feature vector per arm, one model for all arms; or (n, d), one vector
            per context, a model per action (an action without data predicts the mean reward).
        actions: Logged actions 0..K-1, (n,).
        rewards: (n,).
        rng: Deals the rounds to folds.
        num_arms: K where `features` are (n, d); the largest logged action plus 1 if None.
        ridge: See `ridge_fit`.

    Returns:
        q, float64 (n, K).

    Raises:
        ValueError: If there are fewer than two rounds.
    """
    rounds = len(rewards)
    folds = min(_FOLDS, rounds)
    if folds < 2:
        raise ValueError(f"{rounds} rounds; cross-fitting needs at least two")
    arms = features.shape[1] if features.ndim == 3 else num_arms or int(actions.max()) + 1
    fold = rng.permutation(rounds) % folds
    q = np.empty((rounds, arms))
    for k in range(folds):
        train, test = fold != k, fold == k
        fit = _shared_rewards if features.ndim == 3 else _rewards_per_action
        q[test] = fit(features, actions, rewards, train, test, ridge, arms)
    return q


def _shared_rewards(
    features: NDArray[np.floating],
    actions: NDArray[np.int64],
    rewards: Array,
    train: NDArray[np.bool_],
    test: NDArray[np.bool_],
    ridge: float,
    arms: int,
) -> Array:
    chosen = features[np.flatnonzero(train), actions[train]].astype(np.float64)
    w, b = ridge_fit(chosen, rewards[train], ridge)
    predicted: Array = features[test] @ w + b
    return predicted


def _rewards_per_action(
    features: NDArray[np.floating],
    actions: NDArray[np.int64],
    rewards: Array,
    train: NDArray[np.bool_],
    test: NDArray[np.bool_],
    ridge: float,
    arms: int,
) -> Array:
    predicted = np.full((int(test.sum()), arms), rewards[train].mean())
    for action in np.unique(actions[train]):
        rows = train & (actions == action)
        w, b = ridge_fit(features[rows].astype(np.float64), rewards[rows], ridge)
        predicted[:, action] = features[test] @ w + b
    return predicted


def conditional_logit(
    features: NDArray[np.floating],
    actions: NDArray[np.int64],
    mask: NDArray[np.integer],
    *,
    ridge: float = 1.0,
) -> Array:
    """Probability of every allowed arm under the logit model that best explains the choices.

    Maximises sum_i log p(a_i) - ridge m |theta|^2 / 2 by Newton's method, m the mean squared norm
    of the features centred within each round. With one-hot features of the action and a small
    ridge these are the frequencies of the actions.

    Args:
        features: z, (n, K, d).
        actions: Chosen arms, (n,).
        mask: Nonzero where an arm was on offer, (n, K).
        ridge: Regularisation.

    Returns:
        Probabilities, float64 (n, K), rows sum to 1, 0 for masked arms.
    """
    allowed = mask.astype(bool)
    z = np.where(allowed[..., None], features, 0.0).astype(np.float64)
    z -= z.sum(axis=1, keepdims=True) / allowed.sum(axis=1)[:, None, None]
    z[~allowed] = 0.0
    rounds, _, dim = z.shape
    penalty = max(ridge * float(np.square(z).sum()) / max(int(allowed.sum()), 1), 1e-9)
    theta, objective = np.zeros(dim), -np.inf
    step = np.zeros(dim)
    for _ in range(_NEWTON_STEPS):
        theta, p, reached = _line_search(z, allowed, actions, theta, step, penalty, objective)
        if reached - objective <= _NEWTON_TOLERANCE * rounds:
            break
        objective = reached
        mean = np.einsum("nk,nkd->nd", p, z)
        gradient = z[np.arange(rounds), actions].sum(axis=0) - mean.sum(axis=0) - penalty * theta
        weighted = (z * p[..., None]).reshape(-1, dim)
        hessian = z.reshape(-1, dim).T @ weighted - mean.T @ mean
        hessian[np.diag_indices(dim)] += penalty
        step = np.linalg.solve(hessian, gradient)
    return p


def _line_search(
    z: Array,
    allowed: NDArray[np.bool_],
    actions: NDArray[np.int64],
    theta: Array,
    step: Array,
    penalty: float,
    objective: float,
) -> tuple[Array, Array, float]:
    """Try theta + s step with the first s of 1, 1/2, ... that loses nothing; also p, objective."""
    for halvings in range(30):
        trial = theta + step * 0.5**halvings
        score = np.where(allowed, z @ trial, -np.inf)
        score -= score.max(axis=1, keepdims=True)
        p = np.exp(score)
        total = p.sum(axis=1)
        chosen = score[np.arange(len(actions)), actions] - np.log(total)
        reached = float(chosen.sum() - penalty * (trial @ trial) / 2)
        if reached >= objective:
            break
    return trial, p / total[:, None], reached


def multinomial_logit(
    features: NDArray[np.floating],
    actions: NDArray[np.int64],
    mask: NDArray[np.integer],
    *,
    ridge: float = 1.0,
) -> Array:
    """Probability of every allowed action under the logit model that best explains the choices.

    Maximises sum_i log p(a_i) - ridge |W|^2 / 2 over W (K, d) and free intercepts, where p is
    normalised over the actions on offer in round i.

    Args:
        features: x, (n, d), of the context that the actions share.
        actions: Chosen actions, (n,).
        mask: Nonzero where an action was on offer, (n, K).
        ridge: Regularisation.

    Returns:
        Probabilities, float64 (n, K), rows sum to 1, 0 for masked actions and those never chosen.
    """
    rounds, arms = mask.shape
    seen = np.unique(actions)
    allowed = mask[:, seen].astype(bool)
    x = np.column_stack([features, np.ones(rounds)]).astype(np.float64)
    chosen = np.zeros(allowed.shape)
    chosen[np.arange(rounds), np.searchsorted(seen, actions)] = 1.0
    penalty = np.full(x.shape[1], ridge)
    penalty[-1] = 0.0

    def log_probabilities(parameters: Array) -> Array:
        scores = x @ parameters.reshape(len(seen), -1).T
        found: Array = log_softmax(np.where(allowed, scores, -np.inf), axis=1)
        return found

    def loss(parameters: Array) -> tuple[float, Array]:
        weights, log_p = parameters.reshape(len(seen), -1), log_probabilities(parameters)
        gradient = (np.exp(log_p) - chosen).T @ x + penalty * weights
        value = -log_p[chosen > 0].sum() + (penalty * weights**2).sum() / 2
        return float(value), gradient.ravel()

    start = np.zeros(len(seen) * x.shape[1])
    best = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _MOST_STEPS})
    probabilities = np.zeros((rounds, arms))
    probabilities[:, seen] = np.exp(log_probabilities(best.x))
    return probabilities
