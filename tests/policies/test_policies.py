"""Policies: the formula, the exact propensity, masks and ties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vitucb.config import PolicyConfig
from vitucb.policies import (
    POLICIES,
    Array,
    Choice,
    Mask,
    argmax_probabilities,
    choose,
    make_policy,
)

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


def config(name: str, **settings: Any) -> PolicyConfig:
    return PolicyConfig(name, **settings)


def known(choice: Choice) -> Array:
    assert choice.probabilities is not None
    return choice.probabilities


EVERY = [
    *(config(name) for name in sorted(POLICIES)),
    config("thompson", joint=True, draws=50),
    config("thompson", optimistic=True),
    config("epsilon-greedy", epsilon=1.0, decay=1 / 3),
    config("boltzmann", temperature=5.0, decay=1.0),
    config("igw", variant="fast-cb"),
    config("igw", variant="falcon"),
]


def decide(
    config: PolicyConfig, mean: Array, width: Array, mask: Mask, round: int = 0, seed: int = 0
) -> Choice:
    return choose(
        make_policy(config), mean, width, mask, round, rng(seed), lambda: np.diag(width**2)
    )


@pytest.mark.parametrize("config", EVERY, ids=str)
@given(
    scores=st.lists(st.integers(-3, 3), min_size=2, max_size=6),
    allowed=st.integers(1, 63),
    round=st.integers(0, 10_000),
    seed=st.integers(0, 1_000),
)
@settings(max_examples=40)
def test_probabilities_sum_to_one_and_masked_arms_have_none(
    config: PolicyConfig, scores: list[int], allowed: int, round: int, seed: int
) -> None:
    mask = np.array([(allowed >> i) & 1 for i in range(len(scores))], np.int8)
    if not mask.any():
        mask[0] = 1
    mean = np.array(scores, np.float64)
    choice = decide(config, mean, np.abs(mean), mask, round, seed)
    assert mask[choice.action] == 1
    assert (known(choice) >= 0).all()
    assert (known(choice)[mask == 0] == 0).all()
    assert known(choice).sum() == pytest.approx(1.0, abs=1e-12)
    assert 0 < choice.propensity <= 1
    assert choice.propensity == known(choice)[choice.action]


@pytest.mark.parametrize("config", [c for c in EVERY if not c.joint], ids=str)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=25)
def test_permuting_the_arms_permutes_the_probabilities(config: PolicyConfig, seed: int) -> None:
    generator = rng(seed)
    mean, width = generator.normal(size=5), generator.exponential(size=5)
    mask = np.array([1, 1, 0, 1, 1], np.int8)
    order = generator.permutation(5)
    plain = known(decide(config, mean, width, mask, 3))
    permuted = known(decide(config, mean[order], width[order], mask[order], 3))
    np.testing.assert_allclose(permuted, plain[order], atol=1e-10)


@pytest.mark.parametrize("config", EVERY, ids=str)
def test_actions_occur_as_often_as_their_probabilities_say(config: PolicyConfig) -> None:
    policy, generator = make_policy(config), rng(1)
    count = 2_000

    def covariance() -> Array:
        return np.diag(WIDTH**2)

    choices = [choose(policy, MEAN, WIDTH, ALL, 4, generator, covariance) for _ in range(count)]
    expected = np.mean([known(c) for c in choices], axis=0)
    counts = np.bincount([c.action for c in choices], minlength=4)
    deviation = np.sqrt(count * expected * (1 - expected))
    assert (np.abs(counts - count * expected) <= 4.5 * deviation + 1e-9).all()


@pytest.mark.parametrize("config", EVERY, ids=str)
def test_same_generator_same_choice(config: PolicyConfig) -> None:
    one, two = (decide(config, MEAN, WIDTH, ALL, 2, seed=7) for _ in range(2))
    assert (one.action, one.propensity) == (two.action, two.propensity)
    np.testing.assert_array_equal(one.bonus, two.bonus)


@pytest.mark.parametrize(
    ("decay", "expected"), [(0.0, 0.5), (1.0, 0.125), (1 / 3, 0.5 * 4 ** (-1 / 3))]
)
def test_epsilon_follows_its_schedule(decay: float, expected: float) -> None:
    choice = decide(config("epsilon-greedy", epsilon=0.5, decay=decay), MEAN, WIDTH, ALL, round=3)
    np.testing.assert_allclose(known(choice)[0], expected / 4)


def test_epsilon_above_one_explores_fully_until_it_has_decayed() -> None:
    choice = decide(config("epsilon-greedy", epsilon=5.0, decay=0.5), MEAN, WIDTH, ALL, round=3)
    np.testing.assert_allclose(known(choice), np.full(4, 0.25))


def test_boltzmann_is_the_softmax_and_goes_to_the_best_arm() -> None:
    warm = decide(config("boltzmann", temperature=0.4, decay=0.5), MEAN, WIDTH, ALL, round=3)
    weights = np.exp(MEAN / 0.2)
    np.testing.assert_allclose(known(warm), weights / weights.sum())
    cold = decide(config("boltzmann", temperature=1e-9), MEAN, WIDTH, ALL)
    np.testing.assert_array_equal(known(cold), [0, 1, 0, 0])


def test_square_cb_equals_its_formula() -> None:
    choice = decide(config("igw", gamma=3.0, growth=0.5), MEAN, WIDTH, ALL, round=15)
    expected = 1 / (4 + 12 * (0.5 - MEAN))
    expected[1] = 0
    expected[1] = 1 - expected.sum()
    np.testing.assert_allclose(known(choice), expected)


def test_fast_cb_equals_its_formula() -> None:
    choice = decide(config("igw", gamma=3.0, growth=0.0, variant="fast-cb"), MEAN, WIDTH, ALL)
    loss, best = 1 - MEAN, 0.5
    expected = best / (4 * best + 3 * (loss - best))  # Foster and Krishnamurthy, algorithm 1
    expected[1] = 0
    expected[1] = 1 - expected.sum()
    np.testing.assert_allclose(known(choice), expected)


def test_falcon_holds_gamma_over_epochs_of_doubling_length() -> None:
    chosen = [decide(config("igw", variant="falcon"), MEAN, WIDTH, ALL, t) for t in range(3, 8)]
    first = known(chosen[0])
    for other in chosen[1:4]:
        np.testing.assert_array_equal(known(other), first)
    assert not np.array_equal(known(chosen[4]), first)
    plain = known(decide(config("igw"), MEAN, WIDTH, ALL, 3))
    np.testing.assert_allclose(first, plain)


def test_no_allowed_arm_is_an_error() -> None:
    with pytest.raises(ValueError, match="no allowed arm"):
        argmax_probabilities(MEAN, np.zeros(4, np.int8))


def test_score_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(ValueError, match="not finite"):
        argmax_probabilities(np.array([np.nan, 1, 2, 3]), ALL)


def test_unknown_policy_is_named() -> None:
    with pytest.raises(ValueError, match="unknown policy 'ucbb'; did you mean 'ucb'"):
        make_policy(PolicyConfig("ucbb"))


def test_policy_may_come_from_an_import_path() -> None:
    policy = make_policy(PolicyConfig("vitucb.policies:greedy"))
    mean: NDArray[np.float64] = np.array([0.0, 2.0, 1.0])
    assert policy(mean, mean, np.ones(3, np.int8), 0, rng()).action == 1
