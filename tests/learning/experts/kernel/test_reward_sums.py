"""Sums of rewards per item: exact within the bound, and what is left past it."""

from __future__ import annotations

import numpy as np
import pytest

from vitucb.learning.experts.kernel.reward_sums import RewardedImages, RewardSums

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


def test_sums_are_those_of_the_rewards() -> None:
    sums = RewardSums(10)
    for key, reward in ((A, 3.0), (B, 5.0), (A, 4.0)):
        sums.add(key, reward)
    counts, totals = sums.look_up([A, B, C], level=1.0)
    np.testing.assert_allclose(counts, [2, 1, 0])
    np.testing.assert_allclose(totals, [2 + 3, 4, 0])
    assert sums.mean == pytest.approx(4.0)
    assert sums.within() == pytest.approx(0.5)


def test_centred_sums_are_those_of_the_shifted_rewards() -> None:
    sums = RewardSums(10)
    for key, reward in ((A, 3.0), (B, 5.0), (A, 4.0)):
        sums.add(key, reward)
    totals, squares = sums.centred(4.0)
    np.testing.assert_allclose(totals, [-1, 1])
    assert squares == pytest.approx(1 + 1 + 0)


def test_a_high_level_costs_no_digits() -> None:
    sums = RewardSums(10)
    rewards = 1e9 + np.random.default_rng(0).standard_normal(50)
    for reward in rewards:
        sums.add(A, float(reward))
    assert sums.within() == pytest.approx(50 * rewards.var(), rel=1e-6)


def test_discounted_rewards_count_less() -> None:
    sums = RewardSums(10)
    sums.add(A, 1.0)
    sums.discount(0.5)
    sums.add(A, 4.0)
    assert sums.count == pytest.approx(1.5)
    assert sums.mean == pytest.approx((0.5 * 1 + 4) / 1.5)


def test_sums_of_an_older_state_have_no_freedom_below_0() -> None:
    sums, other = RewardSums(8), RewardSums(8)
    for key in (b"a" * 16, b"b" * 16):
        sums.add(key, 1.0)
    assert sums.freedom == 0
    sums.discount(0.5)
    state = sums.state_dict()
    del state["squared_weights"]
    other.load_state_dict(state)
    assert other.freedom == 0


def test_past_the_bound_the_item_rewarded_least_recently_is_forgotten() -> None:
    sums = RewardSums(2)
    for key, reward in ((A, 1.0), (B, 2.0), (A, 1.0), (C, 6.0)):
        sums.add(key, reward)
    counts, _ = sums.look_up([A, B, C], 0.0)
    np.testing.assert_allclose(counts, [2, 0, 1])
    assert sums.within() == pytest.approx(0.0, abs=1e-12)


def test_past_the_bound_rewards_of_an_image_stay_with_its_neighbour() -> None:
    images = RewardedImages(2)
    for key, place, reward in ((A, 0.0, 1.0), (B, 1.0, 2.0), (C, 5.0, 7.0)):
        images.add_image(key, np.array([place]), reward)
    counts, sums = images.look_up([A, B, C], 0.0)
    np.testing.assert_allclose(counts, [0, 2, 1])
    np.testing.assert_allclose(sums, [0, 3, 7])
    assert images.count == pytest.approx(3)
    np.testing.assert_allclose(sorted(images.features[:, 0]), [1, 5])


def test_restored_sums_continue_identically() -> None:
    rng = np.random.default_rng(0)
    images, other = RewardedImages(5), RewardedImages(5)

    def play(one: RewardedImages, draws: np.random.Generator) -> None:
        for _ in range(30):
            item = int(draws.integers(9))
            one.discount(0.9)
            one.add_image(bytes([item]) * 16, np.array([float(item)]), float(draws.normal()))

    play(images, rng)
    other.load_state_dict(images.state_dict())
    play(images, np.random.default_rng(1))
    play(other, np.random.default_rng(1))
    np.testing.assert_array_equal(images.sums, other.sums)
    assert images.squares == other.squares


def test_a_bound_below_two_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        RewardSums(1)


def test_an_image_with_the_same_id_is_nearer_than_any_with_another() -> None:
    for num_ids, heir in ((0, B), (1, C)):
        images = RewardedImages(3, num_ids)
        images.add_image(A, np.array([0.0, 1.0]), 1.0)
        images.add_image(B, np.array([0.0, 2.0]), 1.0)
        images.add_image(C, np.array([5.0, 1.0]), 1.0)
        images.add_image(b"d" * 16, np.array([9.0, 7.0]), 1.0)
        counts, _ = images.look_up([A, heir], 0.0)
        np.testing.assert_allclose(counts, [0, 2])
