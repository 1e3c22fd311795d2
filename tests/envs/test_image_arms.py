from __future__ import annotations

import math
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

import vitucb.envs  # noqa: F401  registers the ids
from vitucb.envs.data.image_dataset import ImageDataset
from vitucb.envs.digits_paper import DigitsPaperEnv
from vitucb.envs.image_arms import ImageArmsEnv

INFO_KEYS = {"expected_reward", "optimal_reward", "regret", "optimal_action"}


def _tagged(num_classes: int = 5, per_class: int = 3) -> ImageDataset:
    """Images that show their own index (red) and class (green), so they can be told apart."""
    count = num_classes * per_class
    labels = np.arange(count, dtype=np.int64) % num_classes
    images = np.zeros((count, 2, 2, 3), np.uint8)
    images[..., 0] = np.arange(count, dtype=np.uint8)[:, None, None]
    images[..., 1] = labels.astype(np.uint8)[:, None, None]
    names = tuple(f"class {label}" for label in range(num_classes))
    scores = np.linspace(-1, 1, count).astype(np.float32)
    return ImageDataset("tagged", images, labels, scores, names)


def _items(obs: dict[str, NDArray[Any]]) -> list[int]:
    return cast(list[int], obs["images"][:, 0, 0, 0].tolist())


def _classes(obs: dict[str, NDArray[Any]]) -> list[int]:
    return cast(list[int], obs["images"][:, 0, 0, 1].tolist())


def _play(env: ImageArmsEnv, seed: int, actions: list[int]) -> tuple[list[list[int]], list[float]]:
    obs, _ = env.reset(seed=seed)
    contexts, rewards = [_items(obs)], []
    for action in actions:
        obs, reward, _, _, _ = env.step(action)
        contexts.append(_items(obs))
        rewards.append(reward)
    return contexts, rewards


@pytest.mark.parametrize("reward", ["bernoulli", "gaussian", "score"])
@pytest.mark.parametrize("num_arms", [2, 5])
def test_check_env_accepts_every_reward_law(reward: Any, num_arms: int) -> None:
    kwargs = {"dataset": _tagged(), "num_arms": num_arms, "reward": reward}
    check_env(gymnasium.make("vitucb/ImageArms-v0", **cast(Any, kwargs)).unwrapped)


def test_digits_observation_has_the_documented_shapes_and_types() -> None:
    env = ImageArmsEnv("digits", num_arms=4)
    obs, info = env.reset(seed=0)
    assert obs["images"].shape == (4, 8, 8, 3)
    assert obs["images"].dtype == np.uint8
    assert obs["action_mask"].dtype == np.int8
    assert obs["action_mask"].tolist() == [1, 1, 1, 1]
    assert set(info) == INFO_KEYS
    assert math.isnan(info["regret"])
    assert info["optimal_action"] == -1


def test_same_seed_gives_the_same_stream_and_another_seed_another() -> None:
    actions = [0, 1, 2, 1, 0] * 6
    first = _play(ImageArmsEnv(_tagged(), 3, "gaussian"), 7, actions)
    assert _play(ImageArmsEnv(_tagged(), 3, "gaussian"), 7, actions) == first
    assert _play(ImageArmsEnv(_tagged(), 3, "gaussian"), 8, actions) != first


@settings(max_examples=25, deadline=None)
@given(
    first=st.lists(st.integers(0, 2), min_size=8, max_size=8),
    second=st.lists(st.integers(0, 2), min_size=8, max_size=8),
    law=st.sampled_from(["bernoulli", "gaussian", "score"]),
)
def test_contexts_and_noise_do_not_depend_on_the_actions(
    first: list[int], second: list[int], law: Any
) -> None:
    dataset = _tagged()
    contexts, rewards = _play(ImageArmsEnv(dataset, 3, law), 3, first)
    other_contexts, other_rewards = _play(ImageArmsEnv(dataset, 3, law), 3, second)
    assert contexts == other_contexts
    same = [a == b for a, b in zip(first, second, strict=True)]
    assert all(r == s for r, s, equal in zip(rewards, other_rewards, same, strict=True) if equal)


def test_reward_laws_share_the_images_of_a_seed() -> None:
    actions = [0] * 20
    bernoulli, _ = _play(ImageArmsEnv(_tagged(), 3, "bernoulli"), 1, actions)
    gaussian, _ = _play(ImageArmsEnv(_tagged(), 3, "gaussian"), 1, actions)
    assert bernoulli == gaussian


def test_reset_without_a_seed_continues_the_stream() -> None:
    env = ImageArmsEnv(_tagged(), 3)
    first = _items(env.reset(seed=5)[0])
    later = [_items(env.reset()[0]) for _ in range(5)]
    assert any(items != first for items in later)
    assert _items(env.reset(seed=5)[0]) == first
    assert [_items(env.reset()[0]) for _ in range(5)] == later


def test_scribbling_on_an_observation_changes_nothing() -> None:
    env, untouched = ImageArmsEnv(_tagged(), 3), ImageArmsEnv(_tagged(), 3)
    obs, _ = env.reset(seed=2)
    untouched.reset(seed=2)
    obs["images"][:] = 255
    obs["action_mask"][:] = 0
    obs, reward, _, _, info = env.step(1)
    expected_obs, expected_reward, _, _, expected_info = untouched.step(1)
    assert np.array_equal(obs["images"], expected_obs["images"])
    assert obs["action_mask"].all()
    assert (reward, info) == (expected_reward, expected_info)


def test_arms_are_distinct_classes_and_every_slot_sees_every_class_equally() -> None:
    env = ImageArmsEnv(_tagged(5), 3)
    obs, _ = env.reset(seed=0)
    counts = np.zeros((3, 5))
    for _ in range(2000):
        classes = _classes(obs)
        assert len(set(classes)) == 3
        counts[np.arange(3), classes] += 1
        obs, *_ = env.step(0)
    assert all(stats.chisquare(row).pvalue > 0.01 for row in counts)


def test_optimal_slot_is_uniform_on_shuffled_digits() -> None:
    env = ImageArmsEnv("digits", 10)
    env.reset(seed=0)
    slots = [env.step(0)[4]["optimal_action"] for _ in range(2000)]
    assert stats.chisquare(np.bincount(slots, minlength=10)).pvalue > 0.01


def test_images_of_a_class_are_drawn_uniformly() -> None:
    env = ImageArmsEnv(_tagged(2, per_class=4), 2)
    obs, _ = env.reset(seed=0)
    counts = np.zeros(8)
    for _ in range(2000):
        counts[_items(obs)] += 1
        obs, *_ = env.step(0)
    assert stats.chisquare(counts).pvalue > 0.01


def test_fixed_slots_show_class_i_in_slot_i() -> None:
    env = ImageArmsEnv(_tagged(5), 3, shuffle_slots=False)
    obs, _ = env.reset(seed=0)
    for _ in range(20):
        assert _classes(obs) == [0, 1, 2]
        obs, *_ = env.step(0)


def test_score_arms_are_distinct_images_worth_their_score() -> None:
    dataset = _tagged()
    assert dataset.scores is not None
    env = ImageArmsEnv(dataset, 6, "score", noise_std=0.0)
    obs, _ = env.reset(seed=0)
    for _ in range(50):
        items = _items(obs)
        assert len(set(items)) == 6
        assert env.expected_rewards.tolist() == dataset.scores[items].tolist()
        obs, reward, *_ = env.step(4)
        assert reward == dataset.scores[items[4]]


def test_rated_images_of_fixed_slots_are_worth_their_score() -> None:
    dataset = _tagged(5)
    assert dataset.scores is not None
    env = ImageArmsEnv(dataset, 3, "score", noise_std=0.0, shuffle_slots=False)
    obs, _ = env.reset(seed=0)
    for _ in range(20):
        assert _classes(obs) == [0, 1, 2]
        assert env.expected_rewards.tolist() == dataset.scores[_items(obs)].tolist()
        obs, *_ = env.step(0)


def test_info_describes_the_round_just_played() -> None:
    env = ImageArmsEnv(_tagged(), 3, "gaussian", class_rewards=[3, 1, 4, 1, 5])
    env.reset(seed=0)
    for action in [0, 1, 2] * 5:
        means = env.expected_rewards
        _, reward, terminated, truncated, info = env.step(action)
        assert isinstance(reward, float)
        assert (terminated, truncated) == (False, False)
        assert info == {
            "expected_reward": means[action],
            "optimal_reward": means.max(),
            "regret": means.max() - means[action],
            "optimal_action": means.argmax(),
        }
        assert all(type(value) in (float, int) for value in info.values())


def test_bernoulli_rewards_have_the_probability_of_their_class() -> None:
    env = ImageArmsEnv(_tagged(5), 5, "bernoulli")
    assert env.class_rewards == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    obs, _ = env.reset(seed=0)
    paid: list[list[float]] = [[] for _ in range(5)]
    for _ in range(3000):
        label = _classes(obs)[0]
        obs, reward, *_ = env.step(0)
        paid[label].append(reward)
    assert {reward for rewards in paid for reward in rewards} == {0.0, 1.0}
    for probability, rewards in zip(env.class_rewards, paid, strict=True):
        test = stats.binomtest(int(sum(rewards)), len(rewards), float(probability))
        assert test.pvalue > 0.01


def test_gaussian_rewards_have_the_mean_of_their_class_and_the_asked_noise() -> None:
    env = ImageArmsEnv(_tagged(5), 5, "gaussian", noise_std=0.5)
    assert env.class_rewards.tolist() == [0, 1, 2, 3, 4]
    obs, _ = env.reset(seed=0)
    residuals = []
    for _ in range(2000):
        label = _classes(obs)[2]
        obs, reward, *_ = env.step(2)
        residuals.append(reward - label)
    assert stats.kstest(residuals, "norm", args=(0, 0.5)).pvalue > 0.01


def test_paper_digits_pay_their_digit_with_noise_three() -> None:
    env = DigitsPaperEnv()
    env.reset(seed=0)
    assert env.expected_rewards.tolist() == list(range(10))
    rewards = np.array([env.step(step % 10)[1] for step in range(2000)])
    residuals = rewards - np.arange(2000) % 10
    assert stats.kstest(residuals, "norm", args=(0, 3)).pvalue > 0.01


def test_paper_digits_show_digit_i_in_slot_i() -> None:
    env = DigitsPaperEnv()
    labels = env.dataset.labels
    assert labels is not None
    obs, _ = env.reset(seed=0)
    for slot, image in enumerate(obs["images"]):
        found = np.flatnonzero((env.dataset.images[np.arange(len(labels))] == image).all((1, 2, 3)))
        assert labels[found[0]] == slot


@pytest.mark.parametrize("reward", ["bernoulli", "gaussian"])
def test_noise_of_neighbouring_arms_is_independent(reward: Any) -> None:
    dataset = _tagged(2)
    pair = [
        _play(ImageArmsEnv(dataset, 2, reward, [0.5, 0.5]), 0, [arm] * 1000)[1] for arm in (0, 1)
    ]
    assert abs(stats.pearsonr(*pair).statistic) < 0.1


def test_changed_class_rewards_leave_images_and_noise_alone() -> None:
    actions = [0, 1] * 10
    env, drifted = (ImageArmsEnv(_tagged(), 3, "gaussian") for _ in range(2))
    drifted.class_rewards += 10
    contexts, rewards = _play(env, 0, actions)
    drifted_contexts, drifted_rewards = _play(drifted, 0, actions)
    assert drifted_contexts == contexts
    assert drifted_rewards == pytest.approx([reward + 10 for reward in rewards])


@pytest.mark.parametrize("horizon", [1, 7])
def test_the_episode_is_truncated_at_the_limit_and_never_terminated(horizon: int) -> None:
    env = gymnasium.make(
        "vitucb/ImageArms-v0", dataset=_tagged(), num_arms=3, max_episode_steps=horizon
    )
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(horizon)]
    assert ends == [(False, False)] * (horizon - 1) + [(False, True)]


@pytest.mark.parametrize(
    ("env_id", "horizon"), [("ImageArms-v0", 1_000), ("DigitsPaper-v0", 10_000)]
)
def test_default_horizons(env_id: str, horizon: int) -> None:
    assert gymnasium.spec(f"vitucb/{env_id}").max_episode_steps == horizon


def test_rendering_shows_the_arms_side_by_side() -> None:
    env = ImageArmsEnv(_tagged(), 3, render_mode="rgb_array")
    obs, _ = env.reset(seed=0)
    picture = env.render()
    assert picture is not None
    assert np.array_equal(picture, np.concatenate(obs["images"], axis=1))
    assert ImageArmsEnv(_tagged(), 3).render() is None


def test_vector_environments_step_together() -> None:
    envs = gymnasium.make_vec("vitucb/ImageArms-v0", num_envs=2, dataset="digits", num_arms=3)
    obs, _ = envs.reset(seed=0)
    assert obs["images"].shape == (2, 3, 8, 8, 3)
    _, rewards, *_ = envs.step(np.array([0, 2]))
    assert rewards.shape == (2,)
    envs.close()


_RATED = ImageDataset("rated", np.zeros((4, 2, 2, 3), np.uint8), scores=np.zeros(4, np.float32))
_CLASSED = ImageDataset(
    "classed", np.zeros((4, 2, 2, 3), np.uint8), np.arange(4) % 2, class_names=("a", "b")
)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_arms": 1}, "num_arms 1 .* choose an integer >= 2"),
        ({"num_arms": 2.0}, "num_arms 2.0 .* integer"),
        ({"num_arms": 11}, "dataset 'digits': num_arms 11 exceeds its 10 classes; .* at most 10"),
        ({"reward": "bernouli"}, "unknown reward 'bernouli'; .*known: bernoulli, gaussian, score"),
        ({"noise_std": -1.0}, "noise_std -1.0 .* number >= 0"),
        ({"noise_std": math.nan}, "noise_std nan"),
        ({"noise_std": "3"}, "noise_std '3'"),
        ({"render_mode": "human"}, "unknown render_mode 'human'; choose rgb_array"),
        ({"class_rewards": [0.5]}, r"class_rewards has shape \(1,\); give 10 numbers"),
        ({"class_rewards": [0.5] * 9 + [1.5]}, r"class_rewards\[9\] is 1.5; .* \[0, 1\]"),
        ({"class_rewards": [-0.1] + [0.5] * 9}, r"class_rewards\[0\] is -0.1"),
        ({"class_rewards": ["a"] * 10}, "class_rewards .* no list of numbers"),
        (
            {"class_rewards": [0.0] * 9 + [math.inf], "reward": "gaussian"},
            r"class_rewards\[9\] is inf; give a finite number",
        ),
        ({"reward": "score"}, "dataset 'digits': reward 'score' needs scores"),
        ({"dataset": _RATED, "num_arms": 2}, "dataset 'rated': reward 'bernoulli' needs labels"),
        ({"dataset": _RATED, "reward": "score", "num_arms": 5}, "num_arms 5 exceeds its 4 images"),
        (
            {"dataset": _RATED, "reward": "score", "num_arms": 2, "class_rewards": [1.0]},
            "class_rewards has no use with reward 'score'; remove it",
        ),
        (
            {"dataset": _RATED, "reward": "score", "num_arms": 2, "shuffle_slots": False},
            "dataset 'rated': shuffle_slots=False needs labels",
        ),
        ({"dataset": _CLASSED, "num_arms": 2, "image_size": 8}, "image_size does not resize"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_one_line(
    kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ImageArmsEnv(**kwargs)
    assert "\n" not in str(caught.value)


def test_paper_digits_need_ten_classes() -> None:
    with pytest.raises(ValueError, match="num_arms 10 exceeds its 2 classes"):
        DigitsPaperEnv(_CLASSED)


@pytest.mark.parametrize("action", [-1, 3])
def test_an_action_that_is_no_arm_is_refused(action: int) -> None:
    env = ImageArmsEnv(_tagged(), 3)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=rf"action {action} is no arm; choose 0\.\.2"):
        env.step(action)
