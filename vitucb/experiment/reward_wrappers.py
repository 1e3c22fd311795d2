"""Wrappers of rewards around an environment that tells means, or says itself what arrived."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import gymnasium as gym

_logger = logging.getLogger(__name__)


def check_reward_wrappers(env: gym.Env[Any, Any]) -> None:
    """Refuse wrappers of rewards outside of the layer that says which rewards arrived.

    What arrives does not come through `step`, so they would be passed by. Other wrappers with a
    `step` of their own, of whose rewards nothing is known, are named in a warning.

    Raises:
        ValueError: If there is one.
    """
    outside: list[gym.Wrapper[Any, Any, Any, Any]] = []
    layer = env
    while isinstance(layer, gym.Wrapper) and not hasattr(layer, "arrivals"):
        outside.append(layer)
        layer = layer.env
    if not hasattr(layer, "arrivals"):
        return
    arrives = type(layer).__name__
    for wrapper in outside:
        kind = type(wrapper)
        if isinstance(wrapper, gym.RewardWrapper | gym.wrappers.NormalizeReward):
            raise ValueError(
                f"{kind.__name__} wraps {arrives}, whose rewards arrive beside step, so it would "
                f"change none; wrap the environment in {kind.__name__} first"
            )
        if kind.step is not gym.Wrapper.step and not _is_known(kind):
            _logger.warning(
                "%s wraps %s, whose rewards arrive beside step: what it does to rewards is not "
                "seen; wrap the environment in it first",
                *(kind.__name__, arrives),
            )


def wrapper_of_rewards(env: gym.Env[Any, Any]) -> str:
    """Name of a wrapper that changes rewards and leaves info as it is; empty if there is none.

    Means and regrets in info are then of other rewards than those that are paid: gymnasium's
    wrappers of rewards never look at info. One with a `step` of its own may change info, too, and
    so may a wrapper around it.
    """
    for layer in _layers(env):
        kind = type(layer)
        if isinstance(layer, gym.wrappers.NormalizeReward):
            return kind.__name__
        if isinstance(layer, gym.RewardWrapper):
            return kind.__name__ if kind.step is gym.RewardWrapper.step else ""
        if kind.step is not gym.Wrapper.step and not _is_known(kind):
            return ""
    return ""


def _layers(env: gym.Env[Any, Any]) -> Iterator[gym.Wrapper[Any, Any, Any, Any]]:
    """The wrappers, from the outside in."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env


def _is_known(kind: type[object]) -> bool:
    return kind.__module__.startswith(("gymnasium.", "vitucb."))
