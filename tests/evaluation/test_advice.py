from __future__ import annotations

import numpy as np
import pytest

from vitucb.evaluation.advice import advise, standard_error
from vitucb.evaluation.estimators import Logged, check_logged


def logged(explained: float, rounds: int = 500) -> Logged:
    """A log whose reward model explains this share of the reward's variance."""
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 2, rounds)
    q = rng.normal(size=(rounds, 2))
    noise = rng.normal(size=rounds)
    rewards = explained**0.5 * q[np.arange(rounds), actions] + (1 - explained) ** 0.5 * noise
    target = np.tile([0.9, 0.1], (rounds, 1))
    return check_logged(rewards, actions, np.full(rounds, 0.5), target, q * explained**0.5)


def test_the_reward_model_is_used_where_it_explains_the_rewards() -> None:
    good = advise(logged(0.8), are_logged=True)
    assert good.estimator == "sndr"
    assert "explains some of the rewards" in good.why
    none = advise(logged(0.0), are_logged=True)
    assert none.estimator == "snips"
    assert "explains too little" in none.why


def test_estimated_propensities_are_never_trusted_alone() -> None:
    assert advise(logged(0.0), are_logged=False).estimator == "sndr"


def test_a_log_that_never_did_what_the_policy_does_leaves_the_model() -> None:
    log = check_logged([1.0, 0.0], [0, 0], [0.5, 0.5], [[0, 1], [0, 1]])
    advice = advise(log, are_logged=True)
    assert advice.estimator == "dm"
    assert "nothing to check it" in advice.why


def test_a_log_that_chose_with_certainty_is_no_ground_for_a_weighted_estimate() -> None:
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 2, 300)
    target = np.tile([0.0, 1.0], (300, 1))
    advice = advise(check_logged(rng.random(300), actions, np.ones(300), target), are_logged=True)
    assert (advice.estimator, advice.is_covered) == ("dm", False)
    assert f"covers about {100 * actions.mean():.0f} %" in advice.why
    sound = advise(
        check_logged(rng.random(300), actions, np.full(300, 0.5), target), are_logged=True
    )
    assert sound.is_covered


def test_the_standard_error_is_that_of_a_mean_where_weights_are_equal() -> None:
    x = np.random.default_rng(0).normal(size=50)
    ones, zeros = np.ones(50), np.zeros(50)
    assert standard_error(ones, x, zeros) == pytest.approx(x.std() / 50**0.5)
    assert standard_error(2 * ones, zeros, x) == pytest.approx(x.std() / 50**0.5)
