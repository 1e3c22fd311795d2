"""Image arms or one image as context: which family an observation or environment belongs to."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vitucb.agents.saving import Blueprint
from vitucb.agents.table import AGENTS
from vitucb.policies.choice import check_scores
from vitucb.types import Observation, shares_image


def is_image_context(obs: Observation) -> bool:
    """Whether one image is the context of all arms, rather than an image per arm."""
    return shares_image(len(obs["images"]), len(obs["action_mask"]))


def chosen_image(obs: Observation, action: int) -> NDArray[np.uint8]:
    """The image of the chosen arm, or the context's, uint8 (H, W, C)."""
    image: NDArray[np.uint8] = obs["images"][0 if is_image_context(obs) else action]
    return image


def require_image_bandit(env: object, name: str = "env") -> None:
    """Refuse what is no single environment of images and masks.

    Args:
        env: Anything a caller may have given as one.
        name: What the message calls it.

    Raises:
        TypeError: If it is a name, several environments, or none at all.
        ValueError: If its observations or actions are of another kind.
    """
    if isinstance(env, str):
        raise TypeError(f"{name} {env!r} is a name; give the environment: gymnasium.make({env!r})")
    if isinstance(env, gym.vector.VectorEnv):
        raise TypeError(f"{name} is a vector of {env.num_envs} environments; an agent plays one")
    observations, actions = (getattr(env, f"{kind}_space", None) for kind in _SPACES)
    if observations is None or actions is None:
        kind = type(getattr(env, "unwrapped", env)).__name__
        if isinstance(env, gym.Env):
            raise TypeError(
                f"{name}: {kind} lacks observation_space or action_space; set both in __init__"
            )
        raise TypeError(f"{name} {kind} is no gymnasium environment")
    if not isinstance(observations, gym.spaces.Dict) or not set(observations) >= _PARTS:
        raise ValueError(
            f"{name}: observations must be a Dict space with images and action_mask, "
            f"not {observations}; choose another environment"
        )
    if not isinstance(actions, gym.spaces.Discrete) or actions.start != 0:
        raise ValueError(
            f"{name}: actions must be a Discrete space, one for each arm, from 0 on, not "
            f"{actions}; choose another environment, or wrap it"
        )
    images = observations["images"]
    if not _holds_images(images):
        raise ValueError(
            f"{name}: images must be a Box of uint8 (images, height, width, 1|3|4), not {images}; "
            "choose another environment, or wrap it"
        )


def _holds_images(space: gym.Space[Any]) -> bool:
    """Whether these are pictures as every agent takes them, channels last."""
    is_box = isinstance(space, gym.spaces.Box) and space.dtype == np.uint8
    return is_box and len(space.shape or ()) == 4 and (space.shape or ())[3] in (1, 3, 4)


_SPACES = ("observation", "action")
_PARTS = {"images", "action_mask"}


def why_unfit(
    name: str, num_arms: int, is_shared: bool, *, arms: int, shares_one: bool
) -> str | None:
    """Why an agent made for other arms cannot choose among these: for which, not for which.

    Args:
        name: Of the agent, as in its settings.
        num_arms: For how many arms it was made.
        is_shared: Whether it was made for one image as the context of all of them.
        arms: How many are on offer.
        shares_one: Whether these share an image.

    Returns:
        None if it can.
    """
    knows_numbers = name in AGENTS and AGENTS[name].knows_arms_by_number
    if not knows_numbers and shares_one != is_shared and arms > 1:
        kinds = ("an image per arm", "one image for all arms")
        return f"{kinds[is_shared]}, not for {kinds[shares_one]}"
    if (is_shared or knows_numbers) and arms != num_arms:
        return f"{num_arms} arms, not for {arms}"
    return None


def require_arms(obs: Observation, made: Blueprint | None = None) -> None:
    """Refuse a round in which an agent cannot choose, before anything of it counts.

    Args:
        obs: What it offers.
        made: What the agent was built from; None where it takes arms of any number and kind.

    Raises:
        ValueError: If no arm is allowed, images and arms do not match, or the agent was made for
            arms of another number or kind.
    """
    images, arms = len(obs["images"]), len(obs["action_mask"])
    check_scores(np.zeros(arms), obs["action_mask"])
    if images not in (1, arms):
        raise ValueError(
            f"images: {images} of them where action_mask has {arms} arms; give one for every arm, "
            "or one for all"
        )
    if made is None:
        return
    name, of, shares = made.config.name, made.num_arms, is_image_context(obs)
    if problem := why_unfit(name, of, made.shares_image, arms=arms, shares_one=shares):
        can_mask = shares == made.shares_image and arms < of
        raise ValueError(
            f"the agent was made for {problem}; build it for an environment with these arms"
            + (", or mask those that may not be chosen" if can_mask else "")
        )


def num_label_actions(env: gym.Env[Any, Any]) -> int | None:
    """K if one context image is shared by K actions in `env`, None if every arm has its image."""
    space = env.observation_space
    images = space["images"] if isinstance(space, gym.spaces.Dict) else None
    actions = getattr(env.action_space, "n", 1)
    if images is None or images.shape is None:
        return None
    return int(actions) if shares_image(images.shape[0], actions) else None


def num_context_items(env: gym.Env[Any, Any]) -> int | None:
    """How many items `env` tells apart if it tells item and creative of every arm, else None.

    It does where observations have a `context` of ids (K, 2), a MultiDiscrete space.
    """
    space = env.observation_space
    ids = space.get("context") if isinstance(space, gym.spaces.Dict) else None
    if not isinstance(ids, gym.spaces.MultiDiscrete) or ids.nvec.shape[1:] != (2,):
        return None
    return int(ids.nvec[:, 0].max())


def images_per_round(env: gym.Env[Any, Any]) -> int:
    """How many images a round of `env` brings at most."""
    return 1 if num_label_actions(env) else int(env.action_space.n)  # type: ignore[attr-defined]


def require_image_arms(env: gym.Env[Any, Any], name: str) -> None:
    """Refuse environments whose arms share one context image, for the agent or expert `name`.

    Raises:
        ValueError: If they do.
    """
    if num_label_actions(env) is not None:
        raise ValueError(
            f"{name!r} needs an image per arm; this environment shows one image to all of them: "
            "choose the agents lin-ucb, lin-ts or neural-ucb, or the experts linear or softmax"
        )
