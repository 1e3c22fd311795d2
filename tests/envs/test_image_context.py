from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vitucb.envs import DriftingRewards
from vitucb.envs.data.image_dataset import ImageDataset
from vitucb.envs.image_context import ImageContextEnv


def _tagged(num_classes: int = 4, per_class: int = 3) -> ImageDataset:
    """Images that show their own index (red) and class (green), so they can be told apart."""
    count = num_classes * per_class
    labels = np.arange(count, dtype=np.int64) % num_classes
    images = np.zeros((count, 2, 2, 3), np.uint8)
    images[..., 0] = np.arange(count, dtype=np.uint8)[:, None, None]
    images[..., 1] = labels.astype(np.uint8)[:, None, None]
    return ImageDataset("tagged", images, labels, None, tuple(map(str, range(num_classes))))


def _item(obs: dict[str, Any]) -> int:
    return int(obs["images"][0, 0, 0, 0])


def _label(obs: dict[str, Any]) -> int:
    return int(obs["images"][0, 0, 0, 1])


def test_the_observation_is_one_image_and_a_mask_of_all_labels() -> None:
    env = ImageContextEnv("digits")
    obs, info = env.reset(seed=0)
    assert obs["images"].shape == (1, 8, 8, 3)
    assert obs["action_mask"].tolist() == [1] * 10
    assert obs["action_mask"].dtype == np.int8
    assert math.isnan(info["regret"])
    assert info["optimal_action"] == -1


def test_by_default_the_right_label_pays_one_and_the_others_nothing() -> None:
    env = ImageContextEnv(_tagged())
    obs, _ = env.reset(seed=0)
    for step in range(40):
        label = _label(obs)
        obs, reward, terminated, truncated, info = env.step(step % 4)
        assert reward == float(step % 4 == label)
        assert (terminated, truncated) == (False, False)
        assert info == {
            "expected_reward": reward,
            "optimal_reward": 1.0,
            "regret": 1 - reward,
            "optimal_action": label,
        }


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"reward": "bernoulli", "match_reward": 0.8, "mismatch_reward": 0.3, "num_arms": 3},
        {"reward": "gaussian", "with_replacement": False},
    ],
    ids=["default", "bernoulli", "gaussian"],
)
def test_check_env_accepts_every_reward_law(kwargs: dict[str, Any]) -> None:
    kwargs = {"dataset": _tagged()} | kwargs
    check_env(gymnasium.make("vitucb/ImageContext-v0", **kwargs).unwrapped)


@settings(max_examples=20, deadline=None)
@given(
    first=st.lists(st.integers(0, 3), min_size=8, max_size=8),
    second=st.lists(st.integers(0, 3), min_size=8, max_size=8),
    law=st.sampled_from(["bernoulli", "gaussian"]),
    with_replacement=st.booleans(),
)
def test_contexts_and_noise_do_not_depend_on_the_actions(
    first: list[int], second: list[int], law: Any, with_replacement: bool
) -> None:
    streams = []
    for actions in (first, second):
        env = ImageContextEnv(_tagged(), None, law, 0.7, 0.4, with_replacement=with_replacement)
        obs, _ = env.reset(seed=3)
        items, rewards = [_item(obs)], []
        for action in actions:
            obs, reward, *_ = env.step(action)
            items.append(_item(obs))
            rewards.append(reward)
        streams.append((items, rewards))
    (items, rewards), (other_items, other_rewards) = streams
    assert items == other_items
    same = [a == b for a, b in zip(first, second, strict=True)]
    assert all(r == s for r, s, equal in zip(rewards, other_rewards, same, strict=True) if equal)


def test_images_are_drawn_uniformly() -> None:
    env = ImageContextEnv(_tagged())
    obs, _ = env.reset(seed=0)
    counts = np.zeros(12)
    for _ in range(2400):
        counts[_item(obs)] += 1
        obs, *_ = env.step(0)
    assert stats.chisquare(counts).pvalue > 0.01


def test_without_replacement_every_image_comes_once_per_pass_in_a_new_order() -> None:
    env = ImageContextEnv(_tagged(), with_replacement=False)
    for _ in range(2):  # a reset starts the passes anew
        obs, _ = env.reset(seed=1)
        passes: list[list[int]] = []
        for _ in range(3):
            passes.append([])
            for _ in range(12):
                passes[-1].append(_item(obs))
                obs, *_ = env.step(0)
        assert all(sorted(items) == list(range(12)) for items in passes)
        assert passes[0] != passes[1] != passes[2]


def test_fewer_arms_show_images_of_the_first_classes_only() -> None:
    env = ImageContextEnv(_tagged(), num_arms=2)
    obs, _ = env.reset(seed=0)
    seen = set()
    for _ in range(100):
        seen.add(_label(obs))
        obs, *_ = env.step(1)
    assert seen == {0, 1}
    assert env.class_rewards.tolist() == [[1, 0], [0, 1]]


def test_a_matrix_gives_the_mean_of_every_class_and_action() -> None:
    means = np.arange(16.0).reshape(4, 4)
    env = ImageContextEnv(_tagged(), None, "gaussian", class_rewards=means.tolist(), noise_std=0)
    obs, _ = env.reset(seed=0)
    for step in range(20):
        label = _label(obs)
        assert env.expected_rewards.tolist() == means[label].tolist()
        obs, reward, *_ = env.step(step % 4)
        assert reward == means[label, step % 4]


def test_bernoulli_rewards_have_their_probability() -> None:
    env = ImageContextEnv(_tagged(2), None, "bernoulli", 0.8, 0.3)
    obs, _ = env.reset(seed=0)
    paid: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(2000):
        is_match = _label(obs) == 0
        obs, reward, *_ = env.step(0)
        paid[is_match].append(reward)
    for is_match, probability in ((True, 0.8), (False, 0.3)):
        rewards = paid[is_match]
        assert stats.binomtest(int(sum(rewards)), len(rewards), probability).pvalue > 0.01


def test_gaussian_rewards_have_the_asked_noise() -> None:
    env = ImageContextEnv(_tagged(), None, "gaussian", 2.0, -1.0, noise_std=0.5)
    obs, _ = env.reset(seed=0)
    residuals = []
    for _ in range(2000):
        mean = 2.0 if _label(obs) == 3 else -1.0
        obs, reward, *_ = env.step(3)
        residuals.append(reward - mean)
    assert stats.kstest(residuals, "norm", args=(0, 0.5)).pvalue > 0.01


def test_drift_permutes_what_the_labels_mean() -> None:
    env = DriftingRewards(ImageContextEnv(_tagged()), "abrupt", at=10)
    inner: Any = env.unwrapped
    obs, _ = env.reset(seed=0)
    meaning: dict[int, int] = {}
    for round in range(60):
        label = _label(obs)
        best = int(inner.expected_rewards.argmax())
        assert best == label if round < 10 else meaning.setdefault(label, best) == best != label
        obs, _, _, _, info = env.step(best)
        assert info["regret"] == 0
    assert sorted(meaning.values()) == [0, 1, 2, 3]


def test_writing_to_the_expected_rewards_changes_nothing() -> None:
    env = ImageContextEnv(_tagged())
    env.reset(seed=0)
    env.expected_rewards[:] = 9
    assert set(env.class_rewards.flat) == {0.0, 1.0}


_RATED = ImageDataset("rated", np.zeros((4, 2, 2, 3), np.uint8), scores=np.zeros(4, np.float32))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_arms": 1}, "num_arms 1 .* choose an integer >= 2"),
        ({"num_arms": 11}, "'digits': num_arms 11 exceeds its 10 classes; .* at most 10"),
        ({"reward": "score"}, "unknown reward 'score'; known: bernoulli, gaussian"),
        ({"dataset": _RATED}, "'rated': its images are rated, not labelled; use vitucb/RatedItems"),
        ({"match_reward": 1.5}, r"match_reward, mismatch_reward\[0\] is 1.5; .* \[0, 1\]"),
        ({"mismatch_reward": math.nan, "reward": "gaussian"}, r"\[1\] is nan; give a finite"),
        ({"match_reward": "a"}, "is no list of numbers"),
        ({"class_rewards": [[1, 0]]}, r"shape \(1, 2\); give 10 x 10 numbers, one per class and"),
        (
            {"class_rewards": [[2, 0], [0, 1]], "num_arms": 2},
            r"class_rewards\[0, 0\] is 2.0; give a probability",
        ),
        (
            {"class_rewards": [[1, 0], [0, 1]], "num_arms": 2, "match_reward": 0.5},
            "class_rewards replaces match_reward and mismatch_reward; give one",
        ),
        ({"noise_std": -1}, "noise_std -1"),
        ({"render_mode": "human"}, "unknown render_mode 'human'"),
    ],
)
def test_arguments_out_of_range_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ImageContextEnv(**kwargs)
    assert "\n" not in str(caught.value)


def test_rendering_shows_the_image() -> None:
    env = ImageContextEnv(_tagged(), render_mode="rgb_array")
    obs, _ = env.reset(seed=0)
    assert np.array_equal(env.render(), obs["images"][0])  # type: ignore[arg-type]  # not None here
