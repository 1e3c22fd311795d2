"""Slates: a position pays what its arm would have paid; regret is against the best slate."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

from tests.envs.tiny_arms import Env, arms, unwrapped
from vitucb.config import RunConfig, override
from vitucb.envs import DelayedReward, DriftingRewards, RandomArmSubset, SlateArms, SlotBySlot
from vitucb.envs.wrappers.slate_arms import checked_examination, worth_in_last_position
from vitucb.experiment.environments import make_env

CLICKS = (1.0, 0.5, 0.25)


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version")
@pytest.mark.parametrize("examination", [None, CLICKS])
def test_check_env_finds_nothing_to_warn_about(examination: Sequence[float] | None) -> None:
    env = SlateArms(arms("bernoulli").unwrapped, 3, examination)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")
        check_env(env)
    assert env.action_space == gymnasium.spaces.MultiDiscrete([4, 4, 4])


def test_copies_of_a_slate_environment_step_together() -> None:
    def make() -> Env:
        return SlateArms(arms("bernoulli"), 2)

    envs = gymnasium.vector.SyncVectorEnv([make, make])
    envs.reset(seed=0)
    _, rewards, _, _, infos = envs.step(np.array([[0, 1], [3, 2]]))
    assert infos["rewards"].shape == (2, 2)
    np.testing.assert_allclose(rewards, infos["rewards"].sum(axis=1))


@given(st.permutations(range(4)), st.integers(1, 4), st.integers(0, 99))
def test_a_position_pays_what_its_arm_pays_alone(
    order: Sequence[int], slots: int, seed: int
) -> None:
    slates, bare = SlateArms(arms(), slots), arms()
    slates.reset(seed=seed)
    _, reward, _, _, info = slates.step(np.array(order[:slots]))
    alone = []
    for arm in order[:slots]:
        bare.reset(seed=seed)
        alone.append(float(bare.step(np.int64(arm))[1]))
    assert info["rewards"].tolist() == alone
    assert reward == pytest.approx(sum(alone))


@given(st.integers(0, 99), st.sampled_from([None, CLICKS]))
def test_regret_is_the_distance_to_the_best_of_all_slates(
    seed: int, examination: Sequence[float] | None
) -> None:
    env, seen = SlateArms(arms("bernoulli"), 3, examination), {}
    for slate in itertools.permutations(range(4), 3):
        env.reset(seed=seed)
        means = unwrapped(env).expected_rewards[list(slate)]
        *_, info = env.step(np.array(slate))
        assert info["expected_reward"] == pytest.approx((env.examination * means).sum())
        assert info["regret"] == pytest.approx(info["optimal_reward"] - info["expected_reward"])
        seen[slate] = info
    best = max(seen, key=lambda slate: seen[slate]["expected_reward"])
    assert seen[best]["regret"] == pytest.approx(0, abs=1e-12)
    assert min(info["regret"] for info in seen.values()) >= -1e-12
    assert {tuple(info["optimal_action"].tolist()) for info in seen.values()} <= set(seen)


def test_a_repeated_arm_pays_nothing_again() -> None:
    env = SlateArms(arms(), 3)
    env.reset(seed=1)
    *_, info = env.step(np.array([2, 2, 0]))
    assert info["rewards"][1] == 0
    assert info["rewards"][0] != 0 != info["rewards"][2]


def slot_rounds(env: Env, choose: Any, rounds: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rounds of `SlotBySlot`: `choose(obs)` says which arm."""
    obs, _ = env.reset(seed=seed)
    rows = []
    for _ in range(rounds):
        mask, images = obs["action_mask"].copy(), obs["images"].copy()
        action = choose(obs)
        obs, reward, *_, info = env.step(action)
        assert math.isnan(reward)  # nothing leaks before the slate is full
        more = {"drawn": env.get_wrapper_attr("drawn_reward"), "mask": mask, "images": images}
        rows.append({**info, **more, "action": action, "arrivals": [*_arrivals(env)]})
    return rows


def _arrivals(env: Env) -> list[tuple[int, float]]:
    return list(env.get_wrapper_attr("arrivals"))


def _first(obs: Any) -> int:
    return int(np.flatnonzero(obs["action_mask"])[0])


@pytest.mark.parametrize("examination", [None, CLICKS])
def test_slot_by_slot_shows_the_slates_of_the_environment(
    examination: Sequence[float] | None,
) -> None:
    rows = slot_rounds(SlotBySlot(SlateArms(arms(), 3, examination)), _first, 30)
    whole = SlateArms(arms(), 3, examination)
    whole.reset(seed=0)
    for start in range(0, 30, 3):
        slate = rows[start : start + 3]
        assert [row["action"] for row in slate] == [0, 1, 2]
        assert [row["mask"].sum() for row in slate] == [4, 3, 2]
        assert all((row["images"] == slate[0]["images"]).all() for row in slate)
        *_, info = whole.step(np.array([0, 1, 2]))
        assert [row["drawn"] for row in slate] == info["rewards"].tolist()
        assert sum(row["regret"] for row in slate) == pytest.approx(info["regret"])
        assert [row["optimal_action"] for row in slate] == info["optimal_action"].tolist()
        assert slate[0]["arrivals"] == slate[1]["arrivals"] == []
        worth = [
            (start + k, worth_in_last_position(row["drawn"], k, whole.examination))
            for k, row in enumerate(slate)
        ]
        assert slate[2]["arrivals"] == worth


def test_clicks_come_as_often_as_looked_at_and_attractive_and_are_worth_the_arm() -> None:
    env = SlotBySlot(SlateArms(arms("bernoulli", class_rewards=[0.8] * 4), 3, CLICKS))
    rows = slot_rounds(env, _first, 6_000)
    clicks = np.array([row["drawn"] for row in rows]).reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(clicks, 0.8 * np.array(CLICKS), atol=0.04)
    arrived = [pair for row in rows for pair in row["arrivals"]]
    assert [index for index, _ in arrived] == list(range(6_000))
    worth = np.array([value for _, value in arrived]).reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(worth, 0.8 * CLICKS[-1], atol=0.02)  # wherever it was shown
    assert {value for _, value in arrived} <= {0.0, 0.25, 0.5, 1.0}


def test_one_slot_is_the_environment_itself() -> None:
    rows, bare = slot_rounds(SlotBySlot(SlateArms(arms(), 1)), _first, 20), arms()
    bare.reset(seed=0)
    for index, row in enumerate(rows):
        _, reward, *_, info = bare.step(np.int64(0))
        assert row["arrivals"] == [(index, reward)]
        assert {key: row[key] for key in info} == info


def test_slates_of_drifting_subsets_choose_from_what_is_on_offer() -> None:
    env = SlateArms(DriftingRewards(RandomArmSubset(arms(), 3), "abrupt", at=5), 3)
    obs, _ = env.reset(seed=0)
    for _ in range(20):
        offered = np.flatnonzero(obs["action_mask"])
        means = unwrapped(env).expected_rewards
        obs, *_, info = env.step(offered[:3])
        best = np.sort(means[offered])[::-1][:3].sum()
        assert info["optimal_reward"] == pytest.approx(best)


def test_arms_that_cannot_be_shown_are_refused() -> None:
    env = SlotBySlot(SlateArms(arms(), 2))
    env.reset(seed=0)
    env.step(1)
    with pytest.raises(ValueError, match=r"action 1 is in the slate .* one of \[0, 2, 3\]"):
        env.step(1)
    with pytest.raises(ValueError, match="action 4 is no arm"):
        env.step(4)
    slates = SlateArms(RandomArmSubset(arms(), 2, 2), 2)
    obs, _ = slates.reset(seed=0)
    with pytest.raises(ValueError, match="is masked this round"):
        slates.step(np.flatnonzero(obs["action_mask"] == 0))
    with pytest.raises(ValueError, match="must be 2 numbers of arms"):
        slates.step(np.array([0, 1, 2]))
    with pytest.raises(ValueError, match="the round offers 2 arms; offer more"):
        SlateArms(RandomArmSubset(arms(), 2, 2), 3).reset(seed=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SlateArms(arms(), 5), "slots 5: there are 4 arms; give at most 4"),
        (lambda: SlateArms(arms(), 0), "slots 0 is not usable"),
        (lambda: SlateArms(SlateArms(arms(), 2), 2), "wraps this environment already"),
        (lambda: SlateArms(DelayedReward(arms()), 2), "wraps DelayedReward, whose rewards"),
        (
            lambda: SlateArms(gymnasium.wrappers.TransformReward(arms(), float), 2),
            "wraps TransformReward, whose rewards it would pass by",
        ),
        (lambda: SlateArms(gymnasium.make("vitucb/Logged-v0"), 2), "with arm_rewards"),
        (lambda: SlotBySlot(arms()), "SlotBySlot needs an environment in SlateArms"),
    ],
)
def test_environments_without_slates_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((1, 0.5), "give 3 probabilities, one for each slot"),
        ((1, 0.5, 0), r"give probabilities in \(0, 1\]"),
        ((1, 0.2, 0.5), "none above the one before it"),
        ((1, math.nan, 0.5), r"give probabilities in \(0, 1\]"),
    ],
)
def test_examination_that_cannot_be_is_refused(given: Sequence[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_examination(given, 3)


def _from_config(values: dict[str, Any], rounds: int = 30) -> Env:
    config = override(RunConfig(), {"env": {"num_arms": 4} | values, "num_rounds": rounds})
    return make_env(config.env, config.num_rounds)


def test_a_config_sets_slates_and_its_rounds_are_positions() -> None:
    env = _from_config({"slate": {"slots": 3, "examination": CLICKS}})
    assert isinstance(env, SlotBySlot)
    assert env.get_wrapper_attr("examination").tolist() == list(CLICKS)
    obs, _ = env.reset(seed=0)
    ends = []
    for _ in range(30):
        obs, *_, truncated, _ = env.step(_first(obs))
        ends.append(truncated)
    assert ends == [False] * 29 + [True]


@pytest.mark.parametrize(
    ("values", "rounds", "message"),
    [
        ({"slate": {"slots": 3}}, 31, "31 is no multiple of env.slate.slots 3, .* give 30 or 33"),
        ({"slate": {"slots": 3}}, 2, "2 is no multiple of env.slate.slots 3, .* give 3$"),
        ({"slate": {"slots": 5}}, 30, "slots 5: there are 4 arms; give at most 4"),
        ({"slate": {"examination": [1, 0.5]}}, 30, "env.slate.slots is not set"),
        (
            {"slate": {"slots": 2}, "delay": {"law": "fixed"}},
            30,
            "slates cannot be delayed; leave it out",
        ),
        (
            {"slate": {"slots": 3}, "arm_subset": {"min_arms": 2}},
            30,
            "env.slate.slots 3 is more than env.arm_subset.min_arms 2",
        ),
    ],
)
def test_slate_settings_that_do_not_fit_are_refused(
    values: dict[str, Any], rounds: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        _from_config(values, rounds)
    assert "\n" not in str(caught.value)
