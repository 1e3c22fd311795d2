"""Environments whose spaces, masks or rewards are of another kind are refused in a line."""

from __future__ import annotations

import math
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


@pytest.mark.parametrize("reward", ["good", "1.0", None, [1.0], {}])
def test_what_is_no_number_is_no_reward(reward: Any) -> None:
    with pytest.raises(ValueError, match=r"^round 0: the environment returned reward .* a number;"):
        played(np.ones(3), reward)


class Altered(gym.Wrapper[Any, Any, Any, Any]):
    """From round 2 on, returns what `alter` makes of the observation and the info."""

    def __init__(self, alter: Any) -> None:
        super().__init__(OddEnv())
        self.alter, self.rounds = alter, 0

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.rounds += 1
        if self.rounds > 1:
            obs, info = self.alter(dict(obs), dict(info))
        return obs, reward, terminated, truncated, info


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (lambda obs, info: ({**obs, "images": obs["images"] / 255}, info), "images are float64;"),
        (lambda obs, info: ({**obs, "images": obs["images"][:2]}, info), r"shape \(2, 8, 8, 3\);"),
        (lambda obs, info: ({**obs, "images": obs["images"][0]}, info), r"shape \(8, 8, 3\);"),
        (lambda obs, info: ({**obs, "images": obs["images"][..., :1]}, info), r"8, 8, 1\); the"),
        (lambda obs, info: ({"images": obs["images"]}, info), "the observation holds images;"),
        (lambda obs, info: (obs["images"][0, 0], info), r"the observation is array\("),
        (lambda obs, info: (obs, {**info, "regret": None}), "info has regret None; give each"),
        (lambda obs, info: (obs, {**info, "optimal_action": "left"}), "optimal_action 'left';"),
        (lambda obs, info: (obs, {**info, "optimal_action": math.nan}), "optimal_action nan; give"),
        (lambda obs, info: (obs, {**info, "optimal_action": 0.5}), "optimal_action 0.5; give"),
    ],
)
def test_observations_and_infos_of_another_kind_are_refused_by_their_round(
    alter: Any, said: str
) -> None:
    env = Altered(alter)
    with pytest.raises(ValueError, match=rf"^round [12]: .*{said}"):
        list(run(env, vitucb.make_agent("random", env), num_rounds=5))


def test_images_may_change_their_side() -> None:
    def larger(obs: Any, info: Any) -> Any:
        return {**obs, "images": obs["images"].repeat(2, axis=1)}, info

    env = Altered(larger)
    assert len(list(run(env, vitucb.make_agent("random", env), num_rounds=5))) == 5


def test_players_of_another_kind_and_in_another_order_are_refused() -> None:
    env: Any = OddEnv()
    agent: Any = vitucb.make_agent("random", env)
    with pytest.raises(TypeError, match=r"^env is a str, no gymnasium environment; give run"):
        list(run("vitucb/ImageArms-v0", agent))  # type: ignore[arg-type]  # what is refused
    with pytest.raises(
        TypeError, match=r"^env is a .*, no gymnasium environment; give run\(env, a"
    ):
        list(run(agent, env))
    with pytest.raises(TypeError, match=r"^agent is a str without select_action and update"):
        list(run(env, "random"))  # type: ignore[arg-type]  # what is refused


@pytest.mark.parametrize(
    ("name", "arms", "shares", "said"),
    [
        ("ucb1", 5, False, "made for 3 arms, not for 5, as this"),
        ("ucb1", 5, True, "made for 3 arms, not for 5, as this"),
        ("item-ucb", 5, True, "made for an image per arm, not for one image for all arms"),
        ("item-ucb", 5, False, None),
        ("ucb1", 3, True, None),
    ],
)
def test_an_agent_that_was_made_for_other_arms_is_refused(
    name: str, arms: int, shares: bool, said: str | None
) -> None:
    kind = "ImageContext" if shares else "ImageArms"
    agent = vitucb.make_agent(name, OddEnv(num_arms=3))
    env = gym.make(f"vitucb/{kind}-v0", num_arms=arms, max_episode_steps=3)
    if said is None:
        assert len(list(run(env, agent))) == 3
        return
    with pytest.raises(ValueError, match=rf"^the agent was {said}"):
        list(run(env, agent))


def test_a_reset_that_returns_no_info_is_refused() -> None:
    class Old(gym.Wrapper[Any, Any, Any, Any]):
        def reset(self, **kwargs: Any) -> Any:
            return super().reset(**kwargs)[0]

    env = Old(OddEnv())
    with pytest.raises(ValueError, match=r"reset returned a dict; give \(observation, info\)"):
        list(run(env, vitucb.make_agent("random", env), num_rounds=5))


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
