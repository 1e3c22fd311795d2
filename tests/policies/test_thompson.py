"""Thompson sampling: propensities against closed forms, quadrature of scipy, and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy.stats import norm

from vitucb.config import PolicyConfig
from vitucb.policies import Array, Choice, choose, gaussian_win_probabilities, make_policy
from vitucb.policies.thompson import joint_draws, normal_cdf


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def by_scipy(mean: Array, width: Array) -> Array:
    """The win probabilities, one adaptive integral per arm."""

    def integral(a: int) -> float:
        others = [b for b in range(len(mean)) if b != a]

        def integrand(z: float) -> float:
            x = mean[a] + width[a] * z
            below = norm.cdf((x - mean[others]) / width[others]).prod()
            return float(norm.pdf(z) * below)

        points = sorted(np.clip((mean - mean[a]) / width[a], -9, 9))
        value: float = integrate.quad(integrand, -9, 9, points=points, limit=400, epsabs=1e-12)[0]
        return value

    return np.array([integral(a) for a in range(len(mean))])


def test_normal_cdf_equals_scipys() -> None:
    z = np.concatenate([rng().uniform(-9, 9, 20_000), [-50.0, 0.0, 8.4999, 8.5, 50.0]])
    np.testing.assert_allclose(normal_cdf(z), norm.cdf(z), rtol=0, atol=1e-14)


@given(
    gap=st.floats(-20, 20),
    widths=st.tuples(st.floats(1e-4, 1e3), st.floats(1e-4, 1e3)),
)
def test_two_arms_equal_the_normal_cdf(gap: float, widths: tuple[float, float]) -> None:
    result = gaussian_win_probabilities(np.array([gap, 0.0]), np.array(widths))
    assert result[0] == pytest.approx(norm.cdf(gap / np.hypot(*widths)), abs=1e-10)


def test_equal_arms_win_equally_often() -> None:
    result = gaussian_win_probabilities(np.full(7, 3.0), np.full(7, 0.2))
    np.testing.assert_allclose(result, np.full(7, 1 / 7), atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spread", [0.0, 1.5])
def test_many_arms_equal_adaptive_quadrature(seed: int, spread: float) -> None:
    generator = rng(seed)
    mean, width = generator.normal(size=6), np.exp(spread * generator.normal(size=6))
    result = gaussian_win_probabilities(mean, width)
    np.testing.assert_allclose(result, by_scipy(mean, width), atol=1e-9)


@given(st.integers(0, 10_000), st.integers(1, 40))
@settings(max_examples=40)
def test_integrals_sum_to_one_before_they_are_normalised(seed: int, arms: int) -> None:
    from vitucb.policies.thompson import _integrals

    generator = rng(seed)
    mean, width = generator.normal(size=arms), np.exp(2 * generator.normal(size=arms))
    assert _integrals(mean, width, -np.inf).sum() == pytest.approx(1.0, abs=1e-11)


@pytest.mark.parametrize("is_optimistic", [False, True])
def test_certain_arms_and_optimism_equal_simulation(is_optimistic: bool) -> None:
    mean = np.array([0.3, 0.5, 0.5, -1.0, 0.2])
    width = np.array([0.4, 0.0, 0.0, 1.0, 0.0])
    result = gaussian_win_probabilities(mean, width, is_optimistic=is_optimistic)
    draws = mean + width * rng().standard_normal((200_000, 5))
    draws = np.maximum(draws, mean) if is_optimistic else draws
    best = draws == draws.max(axis=1, keepdims=True)
    simulated = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(result, simulated, atol=5e-3)


def test_two_optimistic_arms_equal_the_closed_form() -> None:
    # The better arm rests at its mean or above; the worse must pass both.
    mean, width, gap = np.array([0.0, -0.7]), np.array([1.1, 0.6]), 0.7
    result = gaussian_win_probabilities(mean, width, is_optimistic=True)
    wins = integrate.quad(lambda x: norm.pdf(x, -0.7, 0.6) * norm.cdf(x / 1.1), 0, 8)[0]
    assert result[1] == pytest.approx(wins, abs=1e-9)
    assert result[1] > 0.5 * norm.sf(gap / 0.6)


def test_all_certain_is_greedy_with_shared_ties() -> None:
    result = gaussian_win_probabilities(np.array([1.0, 2.0, 2.0]), np.zeros(3))
    np.testing.assert_array_equal(result, [0, 0.5, 0.5])


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
def test_propensities_do_not_depend_on_the_unit_of_the_reward(unit: float) -> None:
    mean, width = np.array([0.1, 0.3, 0.2]), np.array([0.3, 0.1, 0.2])
    plain = gaussian_win_probabilities(mean, width)
    np.testing.assert_allclose(gaussian_win_probabilities(unit * mean, unit * width), plain)


def joint(covariance: Array, mean: Array, seed: int = 0, **settings: float) -> Choice:
    policy = make_policy(PolicyConfig("thompson", joint=True, **settings))  # type: ignore[arg-type]
    width = np.sqrt(np.diag(covariance))
    ones = np.ones(len(mean), np.int8)
    return choose(policy, mean, width, ones, 0, rng(seed), lambda: covariance)


def test_joint_propensity_of_two_arms_is_near_the_closed_form() -> None:
    covariance = np.array([[1.0, 0.9], [0.9, 1.5]])
    mean = np.array([0.2, 0.0])
    deviation = 2.0 * np.sqrt(1.0 + 1.5 - 1.8)
    choice = joint(covariance, mean, alpha=2.0, draws=20_000)
    assert choice.probabilities is not None
    assert choice.probabilities[0] == pytest.approx(norm.cdf(0.2 / deviation), abs=0.015)
    p = choice.propensity
    assert choice.standard_error == pytest.approx(np.sqrt(p * (1 - p) / 20_001))


def test_joint_draws_have_the_covariance_and_may_be_singular() -> None:
    factor = rng(3).normal(size=(4, 2))
    covariance = factor @ factor.T
    draws = joint_draws(np.arange(4.0), covariance, 100_000, rng())
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.15)
    np.testing.assert_allclose(draws.mean(axis=0), np.arange(4.0), atol=0.05)


def test_duplicated_arms_share_a_joint_draw() -> None:
    choice = joint(np.ones((3, 3)), np.zeros(3), draws=10)
    # eigh leaves 1e-16 between duplicates, so shares need not be exact; nobody is left out.
    assert choice.probabilities is not None
    assert choice.probabilities.sum() == pytest.approx(1.0)


def test_thompson_with_alpha_zero_is_greedy() -> None:
    policy = make_policy(PolicyConfig("thompson", alpha=0.0))
    mean = np.array([0.1, 0.5, 0.4])
    choice = policy(mean, np.ones(3), np.ones(3, np.int8), 0, rng())
    assert (choice.action, choice.propensity) == (1, 1.0)


def test_optimistic_draws_never_fall_below_the_mean() -> None:
    policy = make_policy(PolicyConfig("thompson", optimistic=True))
    generator = rng()
    for _ in range(50):
        choice = policy(np.zeros(4), np.ones(4), np.ones(4, np.int8), 0, generator)
        assert (choice.bonus >= 0).all()


def test_only_joint_thompson_asks_for_the_covariance() -> None:
    assert make_policy(PolicyConfig("thompson", joint=True)).wants_covariance  # type: ignore[attr-defined]
    assert not make_policy(PolicyConfig("thompson")).wants_covariance  # type: ignore[attr-defined]

    def refuse() -> Array:
        raise AssertionError("asked for the covariance")

    for name in ("ucb", "greedy", "igw", "thompson"):
        policy = make_policy(PolicyConfig(name))
        choose(policy, np.zeros(2), np.ones(2), np.ones(2, np.int8), 0, rng(), refuse)


def test_an_arm_that_cannot_win_makes_no_other_certain() -> None:
    alone = gaussian_win_probabilities(np.array([0.0, 0.1]), np.ones(2))
    for lost, width in ((-1e12, 1.0), (-1e15, 1e13)):
        told = gaussian_win_probabilities(np.array([lost, 0.0, 0.1]), np.array([width, 1.0, 1.0]))
        np.testing.assert_allclose(told, [0, *alone], atol=1e-12)


def test_means_far_from_zero_with_narrow_widths_are_told_apart() -> None:
    near = gaussian_win_probabilities(np.array([0.0, 1e-7]), np.full(2, 5e-7))
    far = gaussian_win_probabilities(np.array([1e6, 1e6 + 1e-7]), np.full(2, 5e-7))
    np.testing.assert_allclose(far, near, atol=1e-3)
