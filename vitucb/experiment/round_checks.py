"""What is refused of an environment in a round: observations, rewards and infos that are none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vitucb.agents.context import num_label_actions, why_unfit
from vitucb.types import LARGEST_REWARD, Decision, Observation, sound_propensities

INFO = ("expected_reward", "optimal_reward", "optimal_action", "regret")
"""What the info of every step tells."""

_KEPT = "the rounds before it are kept"
_INFO = "give each, NaN for a mean or a regret and -1 for an arm that is not known"


def require_players(env: object, agent: object) -> None:
    """Refuse what is no environment or no agent, and agents of ours that were built for other arms.

    Raises:
        TypeError: If one is of another kind, or they are the other way round.
        ValueError: If the arms are of another number or kind.
    """
    if not isinstance(env, gym.Env):
        raise TypeError(
            f"env is a {type(env).__name__}, no gymnasium environment; give run(env, agent)"
        )
    # A loop without checkpoints asks no more of an agent.
    if not all(callable(getattr(agent, name, None)) for name in ("select_action", "update")):
        raise TypeError(
            f"agent is a {type(agent).__name__} without select_action and update; give what "
            "vitucb.make_agent returns"
        )
    made = getattr(agent, "blueprint", None)
    if made is None:
        return
    arms = int(env.action_space.n)  # type: ignore[attr-defined]  # Discrete
    shares, name = num_label_actions(env) is not None, made.config.name
    of, is_shared = made.num_arms, made.shares_image
    if problem := why_unfit(name, of, is_shared, arms=arms, shares_one=shares):
        raise ValueError(
            f"the agent was made for {problem}, as this environment has them; build it with "
            "vitucb.make_agent(name, env) for this one"
        )


def first_observation(reset: object) -> Observation:
    """The observation that an environment's `reset` returned.

    Raises:
        ValueError: If it returned anything but observation and info.
    """
    if not (isinstance(reset, tuple) and len(reset) == 2):
        raise ValueError(
            f"the environment's reset returned a {type(reset).__name__}; give (observation, info)"
        )
    observation: Observation = reset[0]
    return observation


def copied_observation(index: int, obs: object, env: gym.Env[Any, Any]) -> Observation:
    """Copies of the arrays of `obs`: the environment may go on to write into its own.

    Images are held against the space that `env` declares for them; a side may change, since agents
    resize images, their number may not.

    Args:
        index: Round, for messages.
        obs: What `env` returned.
        env: Tells the spaces.

    Raises:
        ValueError: If a part is missing, images are of another type or number than declared, or
            the mask is none or allows no arm.
    """
    if not isinstance(obs, Mapping) or not {"images", "action_mask"} <= set(obs):
        given = f"holds {', '.join(map(str, obs))}" if isinstance(obs, Mapping) else f"is {obs!r}"
        raise ValueError(
            f"round {index}: the observation {given[:200]}; the environment must give images and "
            f"action_mask; {_KEPT}"
        )
    copied = {name: np.array(part) for name, part in obs.items()}
    space = env.observation_space
    if isinstance(space, gym.spaces.Dict):
        _check_images(index, copied["images"], space["images"])
    _check_mask(index, copied["action_mask"], int(env.action_space.n))  # type: ignore[attr-defined]  # Discrete
    return copied


def _check_images(index: int, images: NDArray[Any], space: gym.Space[Any]) -> None:
    declared = space.shape or ()
    if space.dtype != np.uint8 or len(declared) != 4:
        return  # an agent of its own may take names of files, say
    if images.dtype != np.uint8:
        raise ValueError(
            f"round {index}: images are {images.dtype}; the environment must give uint8 values "
            f"from 0 to 255; {_KEPT}"
        )
    if images.ndim != 4 or not images.size or (len(images), images.shape[3]) != declared[::3]:
        raise ValueError(
            f"round {index}: images have shape {images.shape}; the environment must give "
            f"({declared[0]}, height, width, {declared[3]}), as its observation_space says; {_KEPT}"
        )


def _check_mask(index: int, mask: NDArray[np.int8], num_arms: int) -> None:
    if mask.shape != (num_arms,) or not ((mask == 0) | (mask == 1)).all():
        given = f"of shape {mask.shape}" if mask.shape != (num_arms,) else f"of {np.unique(mask)}"
        raise ValueError(
            f"round {index}: action_mask is {given}; the environment must give 1 for every arm on "
            f"offer and 0 for the others, ({num_arms},); {_KEPT}"
        )
    if not np.any(mask):
        raise ValueError(
            f"round {index}: action_mask allows no arm; the environment must offer at least one; "
            f"{_KEPT}"
        )


def checked_decision(index: int, decision: object, num_arms: int) -> Decision:
    """What an agent's `select_action` returned.

    Raises:
        ValueError: If it is no decision among `num_arms` arms, or its propensity no probability.
    """
    if not isinstance(decision, Decision):
        raise ValueError(
            f"round {index}: the agent's select_action returned a {type(decision).__name__}; give "
            f"a vitucb.Decision; {_KEPT}"
        )
    action = decision.action
    is_arm = isinstance(action, int | np.integer) and not isinstance(action, bool)
    if not is_arm or not 0 <= action < num_arms:
        raise ValueError(
            f"round {index}: the agent chose {action!r}; give an arm 0..{num_arms - 1}; {_KEPT}"
        )
    if not np.isfinite(sound_propensities(float(decision.propensity))):
        raise ValueError(
            f"round {index}: the agent's propensity {decision.propensity!r} is no probability in "
            f"(0, 1]; {_KEPT}"
        )
    for name in ("mean", "width", "bonus"):
        shape = np.shape(getattr(decision, name))
        if shape != (num_arms,):
            raise ValueError(
                f"round {index}: {name} of the agent's decision has shape {shape}; give a value "
                f"for every arm, ({num_arms},); {_KEPT}"
            )
    return decision


def checked_metrics(index: int, metrics: object) -> Mapping[str, float]:
    """What an agent's `update` returned; none of None.

    Raises:
        ValueError: If it is neither None nor a mapping.
    """
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping):
        raise ValueError(
            f"round {index}: the agent's update returned a {type(metrics).__name__}; give metrics "
            f"by name, or none; {_KEPT}"
        )
    return metrics


def checked_reward(index: int, what: str, reward: object) -> float:
    """A reward as a float; `what` names it in messages.

    Raises:
        ValueError: If it is no number, not finite or above 1e30 in size.
    """
    value = _number(reward)
    if value is None:
        kind = ", an array" if isinstance(reward, np.ndarray) else ""
        raise ValueError(f"round {index}: {what} {reward!r}{kind}; give a number; {_KEPT}")
    if not abs(value) <= LARGEST_REWARD:  # so, NaN is refused too
        raise ValueError(
            f"round {index}: {what} {value}; rewards must be finite numbers of size "
            f"{LARGEST_REWARD:g} at most; {_KEPT}"
        )
    return value


def checked_info(index: int, info: Mapping[str, Any]) -> dict[str, Any]:
    """`info` with means, regret and best arm as numbers.

    Raises:
        ValueError: If one is missing or no number, or the best arm is none.
    """
    what = f"round {index}: the environment's info"
    if missing := [name for name in INFO if name not in info]:
        raise ValueError(f"{what} lacks {', '.join(missing)}; {_INFO}")
    numbers = {name: _number(info[name]) for name in INFO}
    if wrong := [f"{name} {info[name]!r}" for name, value in numbers.items() if value is None]:
        raise ValueError(f"{what} has {', '.join(wrong)}; {_INFO}")
    best = numbers["optimal_action"]
    if best is None or best < -1 or not best.is_integer():  # so, NaN is refused too
        raise ValueError(f"{what} has optimal_action {info['optimal_action']!r}; {_INFO}")
    return {**info, **numbers}


def _number(value: Any) -> float | None:
    """A number of any kind as a float; None if it is none."""
    if isinstance(value, str) or np.ndim(value):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
