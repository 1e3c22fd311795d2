"""Wrappers of rewards, where rewards come late and where means are told beside them."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import vitucb
from vitucb.config import RunConfig, override
from vitucb.evaluation.logs import read_run_log
from vitucb.experiment.episode import run
from vitucb.experiment.playing import play
from vitucb.experiment.run_folder import run_folder


class Halving(gym.Wrapper[Any, Any, Any, Any]):
    """Pays half, and halves what info says of it."""

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        told = ("expected_reward", "optimal_reward", "regret")
        info |= {name: info[name] / 2 for name in told}
        return obs, float(reward) / 2, terminated, truncated, info


def _digits() -> gym.Env[Any, Any]:
    return gym.make("vitucb/ImageArms-v0", dataset="digits", max_episode_steps=6)


def _doubled(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return gym.wrappers.TransformReward(env, lambda reward: 2 * float(reward))


@pytest.mark.parametrize(
    "wrap", [_doubled, gym.wrappers.NormalizeReward, lambda env: gym.wrappers.ClipReward(env, 0, 1)]
)
def test_a_wrapper_of_rewards_around_delayed_ones_is_refused(wrap: Any) -> None:
    env = wrap(vitucb.envs.DelayedReward(_digits(), "fixed", 1))
    with pytest.raises(ValueError, match=r"Reward wraps DelayedReward, .* wrap the environment in"):
        next(run(env, vitucb.make_agent("random", env)))


def test_a_wrapper_of_rewards_inside_delayed_ones_counts() -> None:
    bare = [r.reward for r in run(_digits(), vitucb.make_agent("random", _digits()))]
    env = vitucb.envs.DelayedReward(_doubled(_digits()), "fixed", 1)
    assert [r.reward for r in run(env, vitucb.make_agent("random", env))] == [2 * x for x in bare]


def test_a_wrapper_whose_rewards_are_not_known_is_named(caplog: pytest.LogCaptureFixture) -> None:
    env = Halving(vitucb.envs.DelayedReward(_digits(), "fixed", 1))
    next(run(env, vitucb.make_agent("random", env)))
    assert "Halving wraps DelayedReward, whose rewards arrive beside step" in caplog.text


def test_other_wrappers_around_delayed_rewards_are_not_talked_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inner = vitucb.envs.DelayedReward(_digits(), "fixed", 1)
    env = vitucb.envs.RandomArmSubset(gym.wrappers.TimeLimit(inner, 5), 3)
    next(run(env, vitucb.make_agent("random", env)))
    assert caplog.text == ""


@pytest.mark.parametrize(
    "wrap",
    [
        _doubled,
        gym.wrappers.NormalizeReward,
        lambda env: gym.wrappers.ClipReward(env, 0, 0.5),
        lambda env: gym.wrappers.TimeLimit(_doubled(Halving(env)), 5),
        lambda env: vitucb.envs.DelayedReward(_doubled(env), "fixed", 1),
    ],
)
def test_means_of_other_rewards_than_those_paid_are_not_told(
    wrap: Any, caplog: pytest.LogCaptureFixture
) -> None:
    env = wrap(_digits())
    rounds = list(run(env, vitucb.make_agent("random", env), num_rounds=3))
    for played in rounds:
        assert math.isnan(played.regret)
        assert math.isnan(played.cumulative_regret)
        assert math.isnan(played.expected_reward)
        assert math.isnan(played.optimal_reward)
        assert played.optimal_action == -1
        assert played.expected_rewards is None
    assert caplog.text.count("Reward changes rewards, and not the means and regrets in info") == 1


@pytest.mark.parametrize(
    "wrap", [Halving, lambda env: Halving(_doubled(env)), lambda env: gym.wrappers.Autoreset(env)]
)
def test_a_step_that_may_change_both_is_believed(
    wrap: Any, caplog: pytest.LogCaptureFixture
) -> None:
    env = wrap(_digits())
    first = next(run(env, vitucb.make_agent("random", env)))
    assert first.regret == first.optimal_reward - first.expected_reward
    assert caplog.text == ""


def _make_doubled(**options: Any) -> gym.Env[Any, Any]:
    return _doubled(gym.make("vitucb/ImageArms-v0", **options))


def test_a_log_of_such_a_run_has_no_true_means(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = gym.envs.registration.EnvSpec("tests/Doubled-v0", entry_point=_make_doubled)
    monkeypatch.setitem(gym.registry, "tests/Doubled-v0", spec)
    settings = {"env": {"id": "tests/Doubled-v0", "dataset": "digits"}, "agent": {"name": "random"}}
    config = override(RunConfig(out=str(tmp_path), num_rounds=6, tensorboard=False), settings)
    play(config)
    log = read_run_log(run_folder(config))
    assert set(np.unique(log.rewards)) <= {0.0, 2.0}
    assert log.expected_rewards is None
