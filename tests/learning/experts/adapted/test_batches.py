"""Which items of a replay a batch is made of."""

from __future__ import annotations

import numpy as np
import pytest

from vitucb.learning.experts.adapted.batches import discounted_ages, draw_slots
from vitucb.learning.replay import Replay

IMAGE = np.zeros((1, 1, 3), np.uint8)


def replay(capacity: int, rewards: int) -> Replay:
    made = Replay(capacity, np.random.default_rng(0), "window")
    for reward in range(rewards):
        made.add(IMAGE, float(reward))
    return made


def test_without_a_discount_every_item_is_as_likely() -> None:
    slots = draw_slots(replay(8, 5), 50_000, 1.0, np.random.default_rng(0))

    assert np.bincount(slots, minlength=5) / 50_000 == pytest.approx(np.full(5, 0.2), abs=0.01)


def test_with_a_discount_the_newest_items_are_the_likeliest() -> None:
    made = replay(4, 10)

    drawn = made.items(draw_slots(made, 50_000, 0.5, np.random.default_rng(0))).rewards

    shares = np.bincount(drawn.astype(int), minlength=10) / 50_000
    assert shares[6:] == pytest.approx(np.array([1, 2, 4, 8]) / 15, abs=0.01)
    assert not shares[:6].any()


def test_discounted_ages_have_geometric_probabilities() -> None:
    uniform = (np.arange(200_000) + 0.5) / 200_000

    counts = np.bincount(discounted_ages(uniform, 5, 0.7), minlength=5) / 200_000

    assert counts == pytest.approx(0.7 ** np.arange(5) / (0.7 ** np.arange(5)).sum(), abs=1e-4)
