"""Environments whose spaces, masks or rewards are of another kind are refused in a line."""

from __future__ import annotations

import threading
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import vitucb
from tests.soak.odd_env import OddEnv
from vitucb.experiment.episode import run


def played(mask: Any, reward: Any = 1.0) -> list[int]:
    env = OddEnv(mask=lambda _: mask, pay=lambda *_: reward)
    agent = vitucb.make_agent("random", env)
    return [r.decision.action for r in run(env, agent, num_rounds=20)]


@pytest.mark.parametrize("mask", [[1, 0, 1], [True, False, True], [1.0, 0.0, 1.0]])
def test_masks_of_zeros_and_ones_of_any_type_are_kept_to(mask: list[Any]) -> None:
    assert set(played(np.array(mask))) == {0, 2}
    assert set(played(mask)) == {0, 2}


@pytest.mark.parametrize(
    ("mask", "given"),
    [
        ([1, 1], r"of shape \(2,\)"),
        ([[1, 1, 1]], r"of shape \(1, 3\)"),
        ([255, 0, 255], r"of \[  0 255\]"),
        ([-1, 0, 1], r"of \[-1  0  1\]"),
        ([0.5, 0, 1], r"of \[0\.  0\.5 1\. \]"),
    ],
)
def test_other_masks_are_refused_by_their_round(mask: list[Any], given: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^round 0: action_mask is {given}; the environment must"
    ):
        played(np.array(mask))


def test_an_array_is_no_reward() -> None:
    with pytest.raises(ValueError, match=r"^round 0: the environment returned reward array\(\[1"):
        played(np.ones(3), np.array([1.0]))


def test_rewards_of_numpy_count() -> None:
    assert len(played(np.ones(3), np.float32(1.0))) == 20


@pytest.mark.parametrize("start", [1, -1])
def test_actions_that_do_not_start_at_0_are_refused(start: int) -> None:
    env = OddEnv()
    env.action_space = gym.spaces.Discrete(3, start=start)
    with pytest.raises(ValueError, match=rf"one for each arm, from 0 on, not .*start={start}"):
        vitucb.make_agent("random", env)


@pytest.mark.parametrize(
    "images",
    [
        gym.spaces.Box(0, 1, (3, 8, 8, 3), np.float32),
        gym.spaces.Box(0, 255, (3, 3, 8, 8), np.uint8),
        gym.spaces.Box(0, 255, (3, 8, 8), np.uint8),
        gym.spaces.MultiBinary((3, 8, 8, 3)),
    ],
    ids=["float", "channels first", "no channels", "bits"],
)
def test_images_of_another_kind_are_refused(images: gym.Space[Any]) -> None:
    env = OddEnv()
    mask = gym.spaces.MultiBinary(3)
    env.observation_space = gym.spaces.Dict({"images": images, "action_mask": mask})
    with pytest.raises(ValueError, match=r"images must be a Box of uint8 \(images, height, width"):
        vitucb.make_agent("random", env)


def test_of_two_limits_the_shorter_ends_the_episode() -> None:
    env = gym.make("vitucb/ImageArms-v0", dataset="digits", num_arms=3, max_episode_steps=5)
    env = gym.wrappers.TimeLimit(env, 50)
    assert len(list(run(env, vitucb.make_agent("random", env)))) == 5


def test_arguments_that_cannot_be_copied_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(**options: Any) -> OddEnv:
        assert options.keys() == {"lock"}
        return OddEnv()

    spec = gym.envs.registration.EnvSpec("tests/Locked-v0", entry_point=build, max_episode_steps=4)
    monkeypatch.setitem(gym.registry, "tests/Locked-v0", spec)
    env = gym.make("tests/Locked-v0", lock=threading.Lock(), disable_env_checker=True)
    assert len(list(run(env, vitucb.make_agent("random", env)))) == 4
