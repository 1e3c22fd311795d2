from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from scipy import stats

from vitucb.envs.data.datasets import load_dataset
from vitucb.envs.rated_items import RatedItemsEnv

EMOJI = Path(__file__).resolve().parents[2].parent / "shared/data/emoji_sentiment_64px.npz"


def test_the_packaged_ratings_are_the_digits() -> None:
    dataset = load_dataset("digits#value")
    assert dataset.scores is not None
    assert dataset.labels is not None
    assert np.array_equal(dataset.scores, dataset.labels)


def test_an_image_pays_its_rating_with_unit_noise() -> None:
    env = RatedItemsEnv()
    env.reset(seed=0)
    residuals = []
    for _ in range(2000):
        rating = env.expected_rewards[1]
        residuals.append(env.step(1)[1] - rating)
    assert stats.kstest(residuals, "norm").pvalue > 0.01


def test_emoji_are_rated_by_people() -> None:
    if not EMOJI.exists():
        pytest.skip(f"{EMOJI} is absent")
    env = RatedItemsEnv(str(EMOJI), num_arms=20, noise_std=0.1)
    obs, _ = env.reset(seed=0)
    assert obs["images"].shape == (20, 64, 64, 3)
    assert -1 <= env.expected_rewards.min() < env.expected_rewards.max() <= 1


def test_a_labelled_set_is_refused() -> None:
    with pytest.raises(ValueError, match="reward 'score' needs scores"):
        RatedItemsEnv("digits")


@pytest.mark.parametrize("env", ["ImageArms-v0", "Creatives-v0"])
def test_ratings_alone_do_not_say_how_many_arms(env: str, tmp_path: Path) -> None:
    images = np.arange(4 * 48, dtype=np.uint8).reshape(4, 4, 4, 3)
    np.savez(tmp_path / "rated.npz", images=images, scores=np.arange(4.0))
    with pytest.raises(ValueError, match="num_arms: the images have ratings and no classes"):
        gym.make(f"vitucb/{env}", dataset=str(tmp_path / "rated.npz"), num_arms=None)
