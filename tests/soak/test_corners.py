"""Every agent at the corners: one arm, one image, nothing on offer, rewards that mean nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import vitucb
from tests.soak.conftest import Trials
from tests.soak.odd_env import odd_env
from vitucb.agents import AGENTS
from vitucb.envs.data.image_dataset import ImageDataset
from vitucb.types import Agent, Decision

_MLP = {"hidden": 8, "steps": 1, "batch_size": 8}
_FEW: dict[str, Any] = {"training": {"batch_size": 4}, "lora": {"rank": 1, "blocks": [-1]}}
_ALONE = {"experts": ["adapted"], **_FEW}
_OWN: Mapping[str, dict[str, Any]] = {
    "vit-ucb": _FEW,
    "neural-ucb": {"options": _MLP},
    "neural-ts": {"options": _MLP},
    "neural-linear": {"options": {"refresh_every": 5, "steps": 1}, **_FEW},
    "full-finetune": {"training": {"batch_size": 2}},
    "prototype": {"options": {"rank": 1, "replay": 5}},
    "lin-ts": {"policy": {"draws": 10}},
}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, _OWN.get(name, {})) for name in AGENTS},
    "vit-ucb, all experts": ("vit-ucb", {"experts": ["kernel", "linear", "adapted"], **_FEW}),
    "adapted alone": ("vit-ucb", _ALONE),
    "adapted alone, gradient head": ("vit-ucb", {"head": "gradient", **_ALONE}),
    "adapted alone, both features": ("vit-ucb", {"features": "both", **_ALONE}),
    "adapted alone, lora-rite": ("vit-ucb", {"optimizer": "lora-rite", **_ALONE}),
    "adapted alone, low-rank": (
        "vit-ucb",
        {"covariance": {"name": "low-rank", "rank": 8}, **_ALONE},
    ),
    "lin-ucb, discount": ("lin-ucb", {"training": {"discount": 0.9}}),
}
FOR_UNIT_REWARDS = ("kl-ucb", "beta-ts")
ROUNDS = 20

FEW_CHOICES: dict[str, dict[str, Any]] = {
    "one arm": {"num_arms": 1},
    "one image": {"num_images": 1},
    "one arm, one image": {"num_arms": 1, "num_images": 1},
    "one arm allowed": {"mask": lambda index: np.eye(3, dtype=np.int8)[index % 3]},
    "30 arms, 2 images": {"num_arms": 30, "num_images": 2},
}
CONSTANT = {str(reward): {"pay": lambda *_, r=reward: r} for reward in (0.0, 0.3, 1.0)}
LARGE: dict[str, Callable[[int, int], float]] = {
    "1e30": lambda index, action: 1e30,
    "-1e30": lambda index, action: -1e30,
    "1e-30": lambda index, action: (action + 1) * 1e-30,
    "1e30 and -1e30 in turn": lambda index, action: (-1) ** index * 1e30,
    "1e30 and 1e-30 in turn": lambda index, action: (1e30, 1e-30)[index % 2],
    "one 1e30 among 0 and 1": lambda index, action: 1e30 if index == 7 else float(index % 2),
    "-1 for the arm last praised": lambda index, action: float((index + action) % 2 * 2 - 1),
}
REFUSED = (math.nan, math.inf, -math.inf, 1e31, -1e300)


def make(key: str, env: gym.Env[Any, Any]) -> Agent:
    name, overrides = SETTINGS[key]
    return vitucb.make_agent(name, env, seed=0, **overrides)


def is_sound(decision: Decision, mask: np.ndarray[Any, np.dtype[np.int8]]) -> bool:
    """Whether the arm was on offer and every number is one."""
    numbers = np.concatenate([decision.mean, decision.width, decision.bonus])
    return bool(
        mask[decision.action] and np.isfinite(numbers).all() and 0 < decision.propensity <= 1
    )


def outcome(key: str, **arguments: Any) -> str:
    """`sound`, or the message of the error that ended the run."""
    env = odd_env(ROUNDS, **arguments)
    try:
        for played in vitucb.run(env, make(key, env), seed=0):
            if not is_sound(played.decision, played.observation["action_mask"]):
                return f"unsound decision in round {played.index}: {played.decision}"
    except ValueError as error:
        return str(error)
    return "sound"


@pytest.mark.soak(
    "One arm, one image, one allowed arm, more arms than images; every agent",
    "plays on; every number finite",
)
@pytest.mark.parametrize("key", SETTINGS)
def test_few_choices_are_played(key: str, trials: Trials) -> None:
    for case, arguments in FEW_CHOICES.items():
        end = outcome(key, **arguments)
        trials.check(end == "sound", f"{key}, {case}: {end}")


@pytest.mark.soak("The same reward always, every agent", "plays on; every number finite")
@pytest.mark.parametrize("key", SETTINGS)
def test_constant_rewards_are_played(key: str, trials: Trials) -> None:
    for case, arguments in CONSTANT.items():
        end = outcome(key, **arguments)
        trials.check(end == "sound", f"{key}, {case}: {end}")


@pytest.mark.soak(
    "Rewards of 1e30, 1e-30, flipping, one outlier; every agent",
    "every number finite; agents for rewards in [0, 1] refuse others by name",
)
@pytest.mark.parametrize("key", SETTINGS)
def test_rewards_of_any_size_are_played_or_refused(key: str, trials: Trials) -> None:
    for case, pay in LARGE.items():
        end = outcome(key, pay=pay)
        refused = key in FOR_UNIT_REWARDS and "is not in [0, 1]" in end
        trials.check(end == "sound" or refused, f"{key}, {case}: {end}")


@pytest.mark.soak("No arm allowed in a round, every agent", "one line that names the round")
@pytest.mark.parametrize("key", SETTINGS)
def test_a_round_without_arms_is_an_error(key: str, trials: Trials) -> None:
    for first in (0, 4):
        end = outcome(key, mask=lambda index, f=first: np.full(3, index != f, np.int8))
        wanted = f"round {first}: action_mask allows no arm"
        trials.check(end.startswith(wanted), f"{key}: {end}")


@pytest.mark.soak(
    "A reward of NaN, infinity or beyond 1e30, every agent",
    "one line that names the round; nothing is learnt from it",
)
@pytest.mark.parametrize("key", SETTINGS)
def test_rewards_that_are_no_numbers_are_never_learnt(
    key: str, trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    for reward in REFUSED:
        env = odd_env(ROUNDS, pay=lambda index, _, r=reward: r if index == 5 else index % 2)
        agent = make(key, env)
        learnt: list[float] = []
        learn = agent.update

        def update(*arguments: Any, learn: Any = learn, learnt: Any = learnt) -> dict[str, float]:
            learnt.append(arguments[-1])
            metrics: dict[str, float] = learn(*arguments)
            return metrics

        monkeypatch.setattr(agent, "update", update)
        message = ""
        try:
            for _ in vitucb.run(env, agent, seed=0):
                pass
        except ValueError as error:
            message = str(error)
        wanted = f"round 5: the environment returned reward {reward}"
        passed = message.startswith(wanted) and learnt == [0, 1, 0, 1, 0]
        trials.check(passed, f"{key}, {reward}: {message!r}, learnt {learnt}")


def rated(count: int) -> ImageDataset:
    """Rated images, all different."""
    images = np.arange(count * 12, dtype=np.uint8).reshape(count, 2, 2, 3)
    return ImageDataset("few", images, scores=np.arange(count, dtype=np.float32))


@pytest.mark.soak("More arms than images or classes", "one line that names both numbers")
@pytest.mark.parametrize(
    ("env_id", "arguments", "message"),
    [
        ("ImageArms", {"dataset": rated(1), "reward": "score"}, "num_arms 10 exceeds its 1 images"),
        ("ImageArms", {"dataset": rated(9), "reward": "score"}, "num_arms 10 exceeds its 9 images"),
        ("ImageArms", {"dataset": "digits", "num_arms": 11}, "num_arms 11 exceeds its 10 classes"),
        ("RatedItems", {"dataset": rated(3), "num_arms": 4}, "num_arms 4 exceeds its 3 images"),
    ],
)
def test_more_arms_than_the_data_has_are_refused(
    env_id: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        gym.make(f"vitucb/{env_id}-v0", **arguments)
