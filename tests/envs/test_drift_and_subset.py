"""Drifting means and random subsets of arms: the optimum and the regret are the round's own."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.envs.tiny_arms import arms, play, unwrapped
from vitucb.envs import DriftingRewards, RandomArmSubset
from vitucb.envs.data.image_dataset import ImageDataset
from vitucb.envs.wrappers.drifting_rewards import cyclic_permutation, drift_share


def test_abrupt_drift_permutes_the_means_at_its_round_and_reset_restores_them() -> None:
    env = DriftingRewards(arms(), "abrupt", at=5)
    for _ in range(2):
        env.reset(seed=0)
        start = unwrapped(env).class_rewards.copy()
        assert start.tolist() == [0, 1, 2, 3]
        for round in range(10):
            means = unwrapped(env).class_rewards
            assert sorted(means) == [0, 1, 2, 3]
            assert (means == start).all() if round < 5 else (means != start).all()
            *_, info = env.step(0)
            assert info["optimal_reward"] == 3


def test_regret_is_against_the_means_of_the_round() -> None:
    rows = play(DriftingRewards(arms(), "gradual", at=3, period=8), rounds=20)
    for row in rows:
        assert row["expected_reward"] == row["means"][row["action"]]
        assert row["optimal_reward"] == max(row["means"])
        assert row["regret"] == row["optimal_reward"] - row["expected_reward"]


@pytest.mark.parametrize(
    ("kind", "shares"),
    [
        ("abrupt", [0, 0, 1, 1, 1, 1, 1, 1]),
        ("gradual", [0, 0, 0, 0.5, 1, 1, 1, 1]),
        ("recurring", [0, 0, 1, 1, 0, 0, 1, 1]),
    ],
)
def test_share_of_the_new_means_by_round(kind: Any, shares: list[float]) -> None:
    assert [drift_share(kind, round, at=2, period=2) for round in range(8)] == shares


@given(count=st.integers(2, 12), seed=st.integers(0, 1000))
def test_cyclic_permutations_are_permutations_without_fixed_points(count: int, seed: int) -> None:
    permutation = cyclic_permutation(count, np.random.default_rng(seed))
    assert sorted(permutation) == list(range(count))
    assert (permutation != np.arange(count)).all()


def test_cyclic_permutations_are_uniform() -> None:
    rng = np.random.default_rng(0)
    drawn = [tuple(cyclic_permutation(4, rng).tolist()) for _ in range(3000)]
    counts = [drawn.count(permutation) for permutation in set(drawn)]
    assert len(counts) == 6  # (4-1)!
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"kind": "sudden"}, "unknown drift 'sudden'; known: abrupt, gradual, recurring"),
        ({"period": 3}, "period 3 has no use with abrupt drift; remove it"),
        ({"kind": "gradual"}, "gradual drift needs a period"),
        ({"kind": "recurring", "period": 0}, "period 0 is not usable; give an integer >= 1"),
        ({"at": -1}, "at -1 is not usable"),
    ],
)
def test_drift_arguments_out_of_range_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DriftingRewards(arms(), **kwargs)


def test_rated_items_and_foreign_environments_cannot_drift() -> None:
    images = np.zeros((4, 2, 2, 3), np.uint8)
    rated = ImageDataset("rated", images, scores=np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="a rated set has no classes"):
        DriftingRewards(arms("score", dataset=rated))
    with pytest.raises(ValueError, match="needs an environment with class_rewards"):
        DriftingRewards(gymnasium.make("CartPole-v1"))


def test_optimum_and_regret_are_among_the_arms_on_offer() -> None:
    sizes = []
    for row in play(RandomArmSubset(arms(), 2, 3), rounds=300):
        offered = np.flatnonzero(row["mask"])
        means = np.array(row["means"])
        assert len(means) == 4
        assert row["optimal_reward"] == means[offered].max()
        assert row["optimal_action"] in offered
        assert row["expected_reward"] == means[row["action"]]
        assert row["regret"] == row["optimal_reward"] - row["expected_reward"]
        sizes.append(len(offered))
    assert set(sizes) == {2, 3}


def test_every_subset_of_a_size_is_as_likely() -> None:
    masks = [tuple(row["mask"]) for row in play(RandomArmSubset(arms(), 2, 2), rounds=900)]
    counts = [masks.count(mask) for mask in set(masks)]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 0.01


def test_choosing_a_masked_arm_is_an_error_that_names_the_others() -> None:
    env = RandomArmSubset(arms(), 2, 2)
    obs, _ = env.reset(seed=0)
    masked = int(np.flatnonzero(obs["action_mask"] == 0)[0])
    offered = np.flatnonzero(obs["action_mask"]).tolist()
    with pytest.raises(ValueError, match=rf"action {masked} is masked .* \[{offered[0]}, "):
        env.step(masked)
    with pytest.raises(ValueError, match="action 9 is no arm"):
        env.step(9)


def test_writing_to_the_mask_changes_nothing() -> None:
    env = RandomArmSubset(arms(), 2, 2)
    obs, _ = env.reset(seed=0)
    masked = int(np.flatnonzero(obs["action_mask"] == 0)[0])
    obs["action_mask"][:] = 1
    with pytest.raises(ValueError, match="is masked"):
        env.step(masked)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"min_arms": 0}, "min_arms 0 is not usable; give an integer >= 1"),
        ({"min_arms": 5}, "there are 4 arms; give at most 4"),
        ({"max_arms": 5}, "there are 4 arms; give at most 4"),
        ({"min_arms": 3, "max_arms": 2}, "max_arms 2 is not usable; give an integer >= 3"),
    ],
)
def test_subset_arguments_out_of_range_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomArmSubset(arms(), **kwargs)


def test_environments_that_hide_their_means_cannot_be_masked() -> None:
    with pytest.raises(ValueError, match="needs an environment with expected_rewards"):
        RandomArmSubset(gymnasium.make("CartPole-v1"))


class Unknown(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Tells that nobody knows its means."""

    @property
    def unwrapped(self) -> Any:
        return self

    @property
    def expected_rewards(self) -> np.ndarray:
        return np.full(4, np.nan)


def test_of_unknown_means_no_arm_is_the_best() -> None:
    env = RandomArmSubset(Unknown(arms()), max_arms=3)
    obs, _ = env.reset(seed=0)
    *_, info = env.step(int(obs["action_mask"].argmax()))
    assert info["optimal_action"] == -1
    assert np.isnan(info["regret"])
