"""What `make_agent` is given is held against what an agent needs, and said in one line."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import vitucb
from tests.agents.two_digits import two_digits


class Continuous(gym.Env[Any, Any]):
    """Images, and actions that are no arms."""

    observation_space = gym.spaces.Dict(
        {
            "images": gym.spaces.Box(0, 255, (2, 8, 8, 3), np.uint8),
            "action_mask": gym.spaces.MultiBinary(2),
        }
    )
    action_space = gym.spaces.Box(0, 1, (2,))


@pytest.mark.parametrize(
    ("env", "kind", "message"),
    [
        ("vitucb/ImageArms-v0", TypeError, "is a name; give the environment: gymnasium.make"),
        (gym.make("CartPole-v1"), ValueError, "must be a Dict space with images and action_mask"),
        (gym.make_vec("CartPole-v1", num_envs=2), TypeError, "env is a vector of 2 environments"),
        (Continuous(), ValueError, "actions must be a Discrete space, one for each arm"),
        (3, TypeError, "env int is no gymnasium environment"),
        (gym.Env(), TypeError, "env: Env lacks observation_space or action_space; set both"),
    ],
)
@pytest.mark.parametrize("name", ["ucb1", "vit-ucb"])
def test_what_is_no_image_bandit_is_refused(
    name: str, env: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        vitucb.make_agent(name, env)


def test_a_setting_given_without_its_section_is_found() -> None:
    with pytest.raises(ValueError, match=r"agent.policy.alpha, written policy=\{'alpha': 3\}"):
        vitucb.make_agent("ucb1", two_digits(5), alpha=3)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cudaa", "device 'cudaa' is no name of a device; did you mean cuda"),
        ("gpu", "device 'gpu' cannot be used: .* use cpu"),
    ],
)
def test_a_device_that_is_not_here_is_refused_with_the_remedy(device: str, message: str) -> None:
    env = gym.make("vitucb/ImageArms-v0", num_arms=2)
    with pytest.raises(ValueError, match=message):
        vitucb.make_agent("ucb1", env, device=device)
