"""Running estimates of noise and reward scale."""

from __future__ import annotations

import numpy as np
import pytest

from vitucb.learning.reward_scale import ResidualNoise, RewardScale


def test_reward_scale_equals_numpy() -> None:
    rewards = np.random.default_rng(0).normal(3.0, 2.0, 200)
    scale = RewardScale()
    for reward in rewards:
        scale.add(float(reward))
    assert scale.mean == pytest.approx(rewards.mean())
    assert scale.std == pytest.approx(rewards.std())


@pytest.mark.parametrize(("reward", "std"), [(0.0, 1.0), (-0.25, 0.25), (1.0, 1.0), (40.0, 1.0)])
def test_reward_scale_of_equal_rewards_is_their_size_at_most_one(reward: float, std: float) -> None:
    scale = RewardScale()
    for _ in range(4):
        scale.add(reward)
    assert (scale.mean, scale.std) == (reward, std)


def test_noise_of_constant_errors_converges_to_their_size() -> None:
    noise = ResidualNoise(prior=5.0)
    for _ in range(2_000):
        noise.add(-0.3)
    assert noise.std == pytest.approx(0.3, rel=1e-3)


@pytest.mark.parametrize("unit", [1e-160, 1e-300, 5e-324])
def test_noise_is_above_0_in_units_whose_squares_are_0(unit: float) -> None:
    noise = ResidualNoise()
    for error in (1.0, -0.5, 0.2):
        noise.add(error * unit)
        noise.see(unit)
    assert 0 < noise.std < 1e-100


def test_noise_is_a_plain_average_within_its_window() -> None:
    noise = ResidualNoise(prior=1.0, window=100)
    errors = np.random.default_rng(0).normal(size=50)
    for error in errors:
        noise.add(float(error))
    assert noise.std**2 == pytest.approx((1 + (errors**2).sum()) / 51)


def test_errors_of_a_guessed_unit_are_forgotten_once_a_reward_tells_the_unit() -> None:
    noise = ResidualNoise()
    for error, reward in ((0.4, 0.0), (-0.3, 0.001), (0.002, 0.5)):
        noise.add(error)
        noise.see(reward)
    assert noise.std**2 == pytest.approx((0.001**2 + 0.002**2) / 2)
    whole = ResidualNoise()
    for error, reward in ((0.4, 0.0), (-0.3, 1.0), (0.2, 0.001)):
        whole.add(error)
        whole.see(reward)
    assert whole.std**2 == pytest.approx((1 + 0.4**2 + 0.3**2 + 0.2**2) / 4)


def test_errors_of_the_level_of_the_rewards_are_forgotten_once_it_is_known() -> None:
    def of(level: float, late: int) -> ResidualNoise:
        """Rewards of deviation 0.5; the first ones were predicted before any was seen."""
        noise, rewards = ResidualNoise(), np.random.default_rng(0).normal(level, 0.5, 60)
        for i, reward in enumerate(rewards.tolist()):
            noise.add(reward if i < late else reward - level)
            noise.see(reward)
        return noise

    assert of(1_000.0, late=1).std == pytest.approx(0.5, rel=0.2)
    assert of(1_000.0, late=30).std == pytest.approx(0.5, rel=0.2)
    # A level of the size of the noise is left to the average.
    assert of(2.0, late=1).std > of(1_000.0, late=1).std


def test_noise_never_reaches_zero() -> None:
    noise = ResidualNoise(window=2)
    for _ in range(200):
        noise.add(0.0)
    assert noise.std > 0


def test_state_round_trips() -> None:
    noise, scale = ResidualNoise(), RewardScale()
    for value in (0.0, 2.0, 4.0):
        noise.add(value)
        scale.add(value)
    levelled, restored = ResidualNoise(), ResidualNoise()
    for _ in range(9):
        levelled.see(1_000.0)
    restored.load_state_dict(levelled.state_dict())
    for one in (levelled, restored):
        one.add(1_000.0)
        one.see(1_000.1)
    assert restored.std == levelled.std < 0.1
    restored_noise, restored_scale = ResidualNoise(), RewardScale()
    restored_noise.load_state_dict(noise.state_dict())
    restored_scale.load_state_dict(scale.state_dict())
    for one in (noise, restored_noise):
        one.see(0.5)
    assert restored_noise.std == noise.std == 0.5
    assert (restored_scale.mean, restored_scale.std) == (scale.mean, scale.std)


@pytest.mark.parametrize("unit", [1e-12, 1e-9, 1e-6, 1e-3, 1.0])
def test_the_noise_follows_the_unit_of_rewards_however_small(unit: float) -> None:
    noise = ResidualNoise()
    for t in range(3_000):
        noise.add(unit * 0.01 * (-1) ** t)
        noise.see(unit * (t % 2))
    assert noise.std == pytest.approx(0.01 * unit, rel=0.05)
