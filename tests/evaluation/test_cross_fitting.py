from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from vitucb.evaluation.cross_fitting import (
    conditional_logit,
    cross_fitted_rewards,
    multinomial_logit,
    ridge_fit,
)


def test_ridge_fit_solves_its_own_problem() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)) + 3, rng.normal(size=30) - 2
    w, b = ridge_fit(x, y, 0.5)
    centred = x - x.mean(axis=0)
    penalty = 0.5 * np.square(centred).sum() / 30
    residual = y - x @ w - b
    np.testing.assert_allclose(centred.T @ residual, penalty * w, atol=1e-10)
    assert residual.mean() == pytest.approx(0)


def test_a_linear_reward_is_found_by_rounds_that_did_not_show_it() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(200, 5, 3))
    theta = np.array([1.0, -2.0, 0.5])
    actions = rng.integers(0, 5, 200)
    rewards = (features @ theta)[np.arange(200), actions] + 4
    q = cross_fitted_rewards(features, actions, rewards, rng, ridge=1e-9)
    np.testing.assert_allclose(q, features @ theta + 4, atol=1e-6)


def test_no_round_influences_its_own_estimate() -> None:
    rng = np.random.default_rng(2)
    features = rng.normal(size=(40, 3, 2)).astype(np.float32)
    actions, rewards = rng.integers(0, 3, 40), rng.normal(size=40)
    before = cross_fitted_rewards(features, actions, rewards, np.random.default_rng(0))
    rewards[7] += 100
    after = cross_fitted_rewards(features, actions, rewards, np.random.default_rng(0))
    np.testing.assert_array_equal(before[7], after[7])
    assert (before != after).any()


def test_a_model_per_action_where_the_context_is_shared() -> None:
    rng = np.random.default_rng(3)
    features, actions = rng.normal(size=(300, 2)), rng.integers(0, 3, 300)
    slopes = np.array([[1.0, 0], [0, 1], [-1, 1]])
    means = features @ slopes.T
    rewards = means[np.arange(300), actions]
    q = cross_fitted_rewards(features, actions, rewards, rng, num_arms=4, ridge=1e-9)
    np.testing.assert_allclose(q[:, :3], means, atol=1e-6)
    assert abs(q[:, 3] - rewards.mean()).max() < 0.1  # the action nobody took


def test_one_round_cannot_be_cross_fitted() -> None:
    with pytest.raises(ValueError, match="1 rounds; cross-fitting needs at least two"):
        cross_fitted_rewards(
            np.ones((1, 2, 1)), np.zeros(1, np.int64), np.ones(1), np.random.default_rng(0)
        )


def test_one_hot_logit_gives_the_frequencies() -> None:
    actions = np.repeat([0, 1, 2], [60, 30, 10])
    features = np.broadcast_to(np.eye(3), (100, 3, 3))
    p = conditional_logit(features, actions, np.ones((100, 3), np.int8), ridge=1e-9)
    np.testing.assert_allclose(p, np.tile([0.6, 0.3, 0.1], (100, 1)), atol=1e-6)


def test_the_logit_recovers_the_policy_that_chose_and_leaves_masked_arms_alone() -> None:
    rng = np.random.default_rng(4)
    features = rng.normal(size=(4_000, 5, 2))
    mask = (rng.random((4_000, 5)) < 0.8).astype(np.int8)
    mask[:, 0] = 1
    score = np.where(mask, features @ np.array([1.0, -0.5]), -np.inf)
    truth = np.exp(score - score.max(axis=1, keepdims=True))
    truth /= truth.sum(axis=1, keepdims=True)
    actions = (truth.cumsum(axis=1) < rng.random((4_000, 1))).sum(axis=1)
    p = conditional_logit(features, actions, mask)
    assert abs(p - truth).max() < 0.03
    assert (p[mask == 0] == 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1)


def test_a_choice_that_is_perfectly_predictable_stays_finite() -> None:
    features = np.tile(np.array([[1.0], [0.0]]), (50, 1, 1)) * 1e3
    p = conditional_logit(features, np.zeros(50, np.int64), np.ones((50, 2), np.int8))
    assert np.isfinite(p).all()
    assert (p[:, 0] > 0.9).all()


@pytest.mark.parametrize("arms", [2, 4])
def test_the_multinomial_logit_of_actions_that_are_always_on_offer_is_scikit_learns(
    arms: int,
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    actions = (x @ rng.normal(size=(3, arms)) + rng.gumbel(size=(400, arms))).argmax(axis=1)
    p = multinomial_logit(x, actions, np.ones((400, arms), np.int8), ridge=2.0)
    # Two classes share one vector of weights there, so that each bears half of the penalty.
    strength = 1 / 2.0 if arms > 2 else 2 / 2.0
    model = LogisticRegression(C=strength, tol=1e-8, max_iter=1_000).fit(x, actions)
    np.testing.assert_allclose(p, model.predict_proba(x), atol=1e-4)


def test_the_multinomial_logit_of_one_action_throughout_is_certain() -> None:
    p = multinomial_logit(np.zeros((5, 2)), np.full(5, 1), np.ones((5, 3), np.int8))
    np.testing.assert_allclose(p, [[0.0, 1.0, 0.0]] * 5)
