"""The replay is a uniform sample of the history and always trains on the newest reward."""

from __future__ import annotations

import numpy as np
import pytest

from vitucb.learning.replay import Replay


def filled(capacity: int, items: int, seed: int = 0) -> Replay:
    replay = Replay(capacity, np.random.default_rng(seed))
    for i in range(items):
        replay.add(np.full((2, 2, 3), i % 256, np.uint8), float(i))
    return replay


def test_below_capacity_everything_is_kept_in_order() -> None:
    batch = filled(10, 7).items(slice(None))
    np.testing.assert_array_equal(batch.rewards, np.arange(7))
    np.testing.assert_array_equal(batch.slots, np.arange(7))
    assert [int(image[0, 0, 0]) for image in batch.images] == list(range(7))


def test_sample_has_the_asked_size_no_repeats_and_the_newest() -> None:
    replay = filled(50, 40)
    for _ in range(20):
        slots = replay.sample(8, always=[39, 3])
        assert len(slots) == len(set(slots)) == 8
        assert {3, 39} <= set(slots)


def test_sample_is_uniform() -> None:
    replay = filled(50, 20)
    counts = np.bincount(np.concatenate([replay.sample(5) for _ in range(2_000)]), minlength=20)
    assert abs(counts - 500).max() < 4.5 * 19.4  # binomial standard deviation


def test_sample_of_a_short_history_is_the_history() -> None:
    assert sorted(filled(50, 3).sample(8)) == [0, 1, 2]


def test_full_memory_says_which_slot_changed() -> None:
    replay = filled(5, 5)
    for i in range(40):
        slot = replay.add(np.full((2, 2, 3), 7, np.uint8), 100.0 + i)
        if slot is not None:
            assert replay.items(np.array([slot])).rewards[0] == 100.0 + i


def test_reservoir_is_uniform_over_the_history() -> None:
    kept = np.zeros(40)
    for seed in range(600):
        batch = filled(10, 40, seed).items(slice(None))
        kept[batch.rewards.astype(int)] += 1
    # Each item is kept with probability 1/4: mean 150, standard deviation 10.6.
    assert abs(kept - 150).max() < 4.5 * 10.6


def test_window_keeps_the_newest() -> None:
    replay = Replay(5, np.random.default_rng(0), "window")
    for i in range(13):
        replay.add(np.zeros((2, 2, 3), np.uint8), float(i), action=i % 3)
    batch = replay.items(slice(None))
    assert sorted(batch.rewards) == [8, 9, 10, 11, 12]
    np.testing.assert_array_equal(batch.actions, batch.rewards % 3)


def test_cleared_replay_is_empty() -> None:
    replay = filled(5, 9)
    replay.clear()
    assert (len(replay), replay.seen) == (0, 0)
    assert replay.add(np.zeros((2, 2, 3), np.uint8), 1.0) == 0


def test_kept_image_is_a_copy() -> None:
    replay = Replay(4, np.random.default_rng(0))
    image = np.zeros((2, 2, 3), np.uint8)
    replay.add(image, 1.0)
    image[:] = 9
    assert replay.items(slice(None)).images[0].max() == 0


def test_restored_replay_continues_identically() -> None:
    replay, restored = filled(5, 12), filled(5, 1, seed=9)
    restored.load_state_dict(replay.state_dict())
    for _ in range(5):
        np.testing.assert_array_equal(replay.sample(3), restored.sample(3))


def test_full_stacks_of_images_stay_as_they_are() -> None:
    replay, rng = Replay(500, np.random.default_rng(0)), np.random.default_rng(1)
    states = []
    for i in range(200):
        side = 3 if i == 70 else 2
        replay.add(rng.integers(0, 256, (side, 2, 3), dtype=np.uint8), float(i))
        if i in (150, 199):
            states.append(replay.state_dict()["stacks"])
    for early, late in zip(states[0][:-1], states[1], strict=False):
        np.testing.assert_array_equal(early, late)
    restored = Replay(500, np.random.default_rng(0))
    restored.load_state_dict(replay.state_dict())
    for one, two in zip(
        replay.items(slice(None)).images, restored.items(slice(None)).images, strict=True
    ):
        np.testing.assert_array_equal(one, two)


def test_capacity_must_be_positive() -> None:
    with pytest.raises(ValueError, match="replay_capacity 0"):
        Replay(0, np.random.default_rng(0))
