"""Policies: the formula, the exact propensity, masks and ties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vitucb.config import PolicyConfig
from vitucb.policies import POLICIES, argmax_probabilities, make_policy

MEAN = np.array([0.1, 0.5, 0.4, 0.2])
WIDTH = np.array([0.9, 0.1, 0.3, 0.0])
ALL = np.ones(4, np.int8)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_ucb_takes_the_largest_mean_plus_alpha_width() -> None:
    choice = make_policy(PolicyConfig("ucb", alpha=1.0))(MEAN, WIDTH, ALL, 0, rng())
    assert choice.action == 0
    assert choice.propensity == 1.0
    np.testing.assert_array_equal(choice.bonus, WIDTH)


def test_ucb_with_alpha_zero_is_greedy() -> None:
    ucb = make_policy(PolicyConfig("ucb", alpha=0.0))(MEAN, WIDTH, ALL, 0, rng())
    greedy = make_policy(PolicyConfig("greedy"))(MEAN, WIDTH, ALL, 0, rng())
    assert ucb.action == greedy.action == 1


def test_ties_are_drawn_uniformly_and_priced() -> None:
    policy = make_policy(PolicyConfig("greedy"))
    generator = rng()
    mean = np.array([1.0, 0.0, 1.0, 1.0])
    choices = [policy(mean, WIDTH, ALL, 0, generator) for _ in range(3_000)]
    counts = np.bincount([c.action for c in choices], minlength=4)
    assert {c.propensity for c in choices} == {1 / 3}
    assert counts[1] == 0
    assert abs(counts[[0, 2, 3]] - 1_000).max() < 110  # 4 standard deviations


def test_epsilon_greedy_frequencies_match_its_propensities() -> None:
    policy = make_policy(PolicyConfig("epsilon-greedy", epsilon=0.2))
    generator = rng()
    choices = [policy(MEAN, WIDTH, ALL, 0, generator) for _ in range(4_000)]
    counts = np.bincount([c.action for c in choices], minlength=4) / 4_000
    np.testing.assert_allclose(counts, [0.05, 0.85, 0.05, 0.05], atol=0.025)
    assert {round(c.propensity, 6) for c in choices} == {0.85, 0.05}


@pytest.mark.parametrize("name", sorted(POLICIES))
@given(
    scores=st.lists(st.integers(-3, 3), min_size=2, max_size=6),
    allowed=st.integers(1, 63),
    seed=st.integers(0, 1_000),
)
def test_masked_arms_are_never_chosen(
    name: str, scores: list[int], allowed: int, seed: int
) -> None:
    mask = np.array([(allowed >> i) & 1 for i in range(len(scores))], np.int8)
    if not mask.any():
        mask[0] = 1
    mean = np.array(scores, np.float64)
    choice = make_policy(PolicyConfig(name))(mean, np.abs(mean), mask, 1, rng(seed))
    assert mask[choice.action] == 1
    assert 0 < choice.propensity <= 1


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_permuting_the_arms_permutes_the_choice(name: str) -> None:
    policy = make_policy(PolicyConfig(name, epsilon=0.0))
    order = np.array([2, 0, 3, 1])
    plain = policy(MEAN, WIDTH, ALL, 0, rng()).action
    permuted = policy(MEAN[order], WIDTH[order], ALL, 0, rng()).action
    assert order[permuted] == plain


def test_no_allowed_arm_is_an_error() -> None:
    with pytest.raises(ValueError, match="no allowed arm"):
        argmax_probabilities(MEAN, np.zeros(4, np.int8))


def test_score_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(ValueError, match="not finite"):
        argmax_probabilities(np.array([np.nan, 1, 2, 3]), ALL)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PolicyConfig("ucbb"), "unknown policy 'ucbb'; did you mean 'ucb'"),
        (PolicyConfig(alpha=-1.0), "agent.policy.alpha -1.0"),
        (PolicyConfig(alpha=float("nan")), "agent.policy.alpha nan"),
        (PolicyConfig(epsilon=2.0), "agent.policy.epsilon 2.0"),
    ],
)
def test_bad_setting_is_named(config: PolicyConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_policy(config)


def test_policy_may_come_from_an_import_path() -> None:
    policy = make_policy(PolicyConfig("vitucb.policies:greedy"))
    mean: NDArray[np.float64] = np.array([0.0, 2.0, 1.0])
    assert policy(mean, mean, np.ones(3, np.int8), 0, rng()).action == 1
