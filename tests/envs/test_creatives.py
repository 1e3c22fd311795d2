from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

from tests.envs.tiny_arms import play, tiny_dataset
from tests.envs.tiny_datasets import folder
from vitucb.envs import RandomArmSubset
from vitucb.envs.click_law import picture_qualities
from vitucb.envs.creatives import CreativesEnv
from vitucb.envs.data.image_dataset import ImageDataset


def tiny(**kwargs: Any) -> CreativesEnv:
    """Six items with three creatives each, of twelve pictures of four classes."""
    return CreativesEnv(**{"dataset": tiny_dataset(), "num_arms": 3, "num_items": 6, **kwargs})


def catalogue(env: CreativesEnv, rounds: int = 200, **kwargs: Any) -> dict[int, tuple[int, float]]:
    """Creative -> its picture and its rate, as rounds of one day show them."""
    obs, _ = env.reset(**{"seed": 0, **kwargs})
    seen: dict[int, tuple[int, float]] = {}
    for _ in range(rounds):
        for (_, creative), image, rate in zip(
            obs["context"], obs["images"], env.expected_rewards, strict=True
        ):
            now = (int(image[0, 0, 0]), float(rate))
            assert seen.setdefault(int(creative), now) == now
        obs, *_ = env.step(0)
    return seen


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"context_ids": False},
        {"impressions": 50, "num_pictures": 4, "rounds_per_day": 2, "drift": 1.0},
        {"dataset": "digits#value", "num_arms": 2},
    ],
    ids=["default", "no ids", "many impressions", "rated"],
)
def test_check_env_accepts_every_kind(kwargs: dict[str, Any]) -> None:
    kwargs = dict[str, Any](dataset=tiny_dataset(), num_arms=3, num_items=6) | kwargs
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make("vitucb/Creatives-v0", **kwargs).unwrapped)


def test_a_round_is_an_item_with_its_creatives_in_random_slots() -> None:
    env, orders = tiny(), set()
    obs, info = env.reset(seed=0)
    assert obs["images"].shape == (3, 2, 2, 3)
    assert obs["context"].dtype == np.int64
    assert math.isnan(info["regret"])
    for _ in range(60):
        items, creatives = obs["context"].T
        assert len(set(items)) == 1
        assert sorted(creatives) == [3 * items[0] + k for k in range(3)]
        assert len({image[0, 0, 0] for image in obs["images"]}) == 3
        orders.add(tuple(creatives % 3))
        obs, *_ = env.step(1)
    assert len(orders) == 6


def test_a_creative_has_one_picture_and_for_a_day_one_rate() -> None:
    seen = catalogue(tiny(rounds_per_day=1_000))
    assert len(seen) == 18
    rates = [rate for _, rate in seen.values()]
    assert min(rates) >= 0.01
    assert max(rates) <= 0.3


def test_effects_drift_between_days_and_pictures_stay() -> None:
    env = tiny(rounds_per_day=100, drift=0.5)
    first = catalogue(env, 99)
    env.step(0)
    today = env.expected_rewards.copy()
    obs = env._observation()
    creatives = obs["context"][:, 1].tolist()
    assert [first[c][0] for c in creatives] == obs["images"][:, 0, 0, 0].tolist()
    assert not np.isclose([first[c][1] for c in creatives], today).any()


def test_without_drift_no_day_differs() -> None:
    catalogue(tiny(rounds_per_day=10, drift=0.0), 200)


def test_with_visual_quality_alone_pictures_of_one_class_have_one_rate() -> None:
    seen = catalogue(tiny(item_weight=0.0, creative_weight=0.0))
    by_class = {picture % 4: {rate for p, rate in seen.values() if p % 4 == picture % 4}
                for picture, _ in seen.values()}  # fmt: skip
    assert all(len(rates) == 1 for rates in by_class.values())
    assert len(set.union(*by_class.values())) == 4


def test_scores_are_the_quality_of_rated_pictures() -> None:
    images = tiny_dataset().images
    scores = np.linspace(-5, 40, 12).astype(np.float32)
    rated = ImageDataset("rated", images, None, scores)
    seen = catalogue(tiny(dataset=rated, item_weight=0.0, creative_weight=0.0))
    ordered = [rate for _, rate in sorted(set(seen.values()))]
    assert ordered == sorted(ordered)
    qualities = picture_qualities(rated, np.random.default_rng(0))
    np.testing.assert_allclose([qualities.mean(), qualities.std()], [0, 1], atol=1e-6)


def test_few_pictures_stand_for_many_items() -> None:
    pictures = {picture for picture, _ in catalogue(tiny(num_pictures=4)).values()}
    assert len(pictures) == 4


@pytest.mark.parametrize(("impressions", "error"), [(1, 0.02), (400, 0.002)])
def test_the_reward_is_the_share_of_impressions_clicked(impressions: int, error: float) -> None:
    env = tiny(impressions=impressions, drift=0.0)
    env.reset(seed=0)
    surplus = []
    for _ in range(2_000):
        _, reward, _, _, info = env.step(0)
        assert round(reward * impressions) == pytest.approx(reward * impressions)
        surplus.append(reward - info["expected_reward"])
    assert abs(np.mean(surplus)) < error


def test_what_every_creative_would_pay_is_told_for_slates() -> None:
    env = tiny(impressions=10)
    for action in range(3):
        env.reset(seed=0)
        told = env.arm_rewards
        assert env.step(action)[1] == told[action]


def test_regret_is_to_the_best_creative_of_the_item() -> None:
    env = tiny()
    env.reset(seed=0)
    for _ in range(20):
        rates = env.expected_rewards.copy()
        *_, info = env.step(2)
        assert info["optimal_action"] == rates.argmax()
        assert info["regret"] == rates.max() - rates[2]


def test_what_is_offered_and_clicked_does_not_depend_on_actions() -> None:
    streams = []
    for actions in ([0, 1, 2, 0, 1, 2], [2, 1, 0, 0, 0, 2]):
        env = tiny(rounds_per_day=3, impressions=20)
        obs, _ = env.reset(seed=5)
        stream: list[NDArray[Any]] = []
        for action in actions:
            stream += [obs["context"], env.expected_rewards.copy(), env._noise]
            obs, *_ = env.step(action)
        streams.append(stream)
    assert all(np.array_equal(a, b) for a, b in zip(*streams, strict=True))


def test_a_seed_repeats_an_episode_and_another_draws_another_catalogue() -> None:
    env = tiny(rounds_per_day=5)
    first, again, other = (play(env, 30, seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_the_ids_are_all_that_context_ids_changes() -> None:
    one, two = (play(tiny(context_ids=shown), 30) for shown in (True, False))
    assert one == two
    assert "context" not in tiny(context_ids=False).reset(seed=0)[0]


def test_any_image_folder_will_do(tmp_path: Path) -> None:
    env = CreativesEnv(folder(tmp_path), num_arms=2, num_items=3)
    obs, _ = env.reset(seed=0)
    assert obs["images"].shape == (2, 8, 8, 3)
    assert set(env.arm_classes) <= {0, 1}


def test_subsets_of_creatives_keep_the_ids() -> None:
    env = RandomArmSubset(gymnasium.make("vitucb/Creatives-v0"), 2)
    obs, _ = env.reset(seed=0)
    assert obs["context"].shape == (5, 2)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_items": 0}, "num_items 0 is out of range; choose an integer from 1"),
        ({"num_arms": 13}, "num_arms 13 exceeds its 12 images"),
        ({"num_pictures": 2}, "num_pictures 2 .* from 3 to 12"),
        ({"rounds_per_day": 0}, "rounds_per_day 0 .* >= 1"),
        ({"impressions": 1.5}, r"impressions 1\.5 .* choose an integer"),
        ({"click_rates": 0.3}, "click_rates 0.3 are no two numbers"),
        ({"click_rates": (0.3, 0.1)}, "0 < least < largest < 1"),
        ({"drift": 2}, "drift 2 .* from 0 to 1"),
        ({"drift": "much"}, "drift 'much' .* choose a number"),
        ({"item_weight": -1}, "item_weight -1 .* >= 0"),
        ({"visual_weight": 0, "item_weight": 0, "creative_weight": 0}, "all 0; raise one"),
        ({"context_ids": 1}, "context_ids 1 is no truth value"),
    ],
)
def test_what_cannot_be_is_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**kwargs)


def test_equal_scores_are_no_quality() -> None:
    flat = ImageDataset("flat", tiny_dataset().images, None, np.ones(12, np.float32))
    with pytest.raises(ValueError, match="scores are all equal; set visual_weight 0"):
        tiny(dataset=flat)
    tiny(dataset=flat, visual_weight=0.0).reset(seed=0)
