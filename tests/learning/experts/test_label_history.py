"""Bounded memory of rewards: a uniform sample, or the newest; rewards on a scale of their own."""

from __future__ import annotations

import numpy as np
import pytest

from vitucb.learning.experts.label_history import LabelHistory


def filled(count: int, capacity: int = 50, discount: float = 1.0, seed: int = 0) -> LabelHistory:
    history = LabelHistory(2, capacity, discount, seed)
    for t in range(count):
        history.add(np.full(2, t, np.float32), t % 3, float(t % 2), t)
    return history


def test_observations_come_back_as_they_went_in() -> None:
    data = filled(7).data(7)
    np.testing.assert_array_equal(data.features[:, 0], np.arange(7))
    np.testing.assert_array_equal(data.actions, np.arange(7) % 3)
    np.testing.assert_array_equal(data.rewards, np.arange(7) % 2)
    assert data.count == 7
    assert float(data.shares.sum()) == pytest.approx(1.0)


def test_past_the_capacity_a_uniform_sample_stays() -> None:
    places = [filled(400, seed=seed).data(400).features[:, 0].numpy() for seed in range(40)]
    assert all(len(set(kept.tolist())) == 50 for kept in places)
    # Mean of uniform draws from 0..399 has a deviation of 115 / sqrt(2,000) = 2.6.
    assert np.mean(places) == pytest.approx(199.5, abs=10)


def test_a_sample_stands_for_all() -> None:
    assert filled(400).data(400).count == pytest.approx(400)


def test_with_a_discount_the_newest_stay_and_count_by_age() -> None:
    data = filled(120, discount=0.9).data(119)
    assert sorted(data.features[:, 0].tolist()) == list(range(70, 120))
    newest = data.shares[data.features[:, 0] == 119]
    before = data.shares[data.features[:, 0] == 118]
    assert float(before / newest) == pytest.approx(0.9, rel=1e-5)
    assert data.count == pytest.approx((1 - 0.9**50) / 0.1)


def test_what_a_discount_has_made_small_is_dropped() -> None:
    data = filled(120, capacity=1_000, discount=0.9).data(119)
    assert len(data.shares) == 66
    assert 0.9 ** len(data.shares) < 1e-3 < 0.9 ** (len(data.shares) - 1)


@pytest.mark.parametrize(
    ("rewards", "unit"),
    [
        ([], (0.0, 1.0)),
        ([0.0], (0.0, 1.0)),
        ([1.0], (0.0, 1.0)),
        ([0.0, 1.0], (0.0, 1.0)),
        ([1000.0, 1001.0], (1000.0, 1001.0)),
        ([0.0, 1e-3], (0.0, 1e-3)),
        ([-2.0], (-2.0, -1.0)),
    ],
)
def test_the_scale_of_rewards_is_their_range(
    rewards: list[float], unit: tuple[float, float]
) -> None:
    history = LabelHistory(1, 10, 1.0, 0)
    for reward in rewards:
        history.add(np.zeros(1, np.float32), 0, reward, 0)
    assert history.reward_range == unit
    assert 0 < history.mean < 1


def test_restored_history_continues_identically() -> None:
    history, restored = filled(90), LabelHistory(2, 50, 1.0, 1)
    restored.load_state_dict(history.state_dict())
    for one in (history, restored):
        for t in range(90, 130):
            one.add(np.full(2, t, np.float32), t % 3, 3.0, t)
    np.testing.assert_array_equal(history.data(130).features, restored.data(130).features)
    assert history.reward_range == restored.reward_range == (0.0, 3.0)


def test_a_history_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity 0"):
        LabelHistory(2, 0, 1.0, 0)


def test_rewards_that_all_come_too_late_to_count_keep_their_shares() -> None:
    history = LabelHistory(2, 50, 0.5, 0)
    for round in (0, 1):
        history.add(np.zeros(2, np.float32), 0, 1.0, round)
    data = history.data(5_000)
    np.testing.assert_allclose(data.shares, [1 / 3, 2 / 3], rtol=1e-6)
    assert data.count == 1
