"""Deploy a new agent, or load one from its folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitucb.agents.factory import make_agent
from vitucb.agents.saving import MANIFEST, Blueprint, read_agent
from vitucb.agents.settings import warn_of_ignored
from vitucb.config import AgentConfig, override
from vitucb.registry import reading_folder
from vitucb.serving.checks import whole_number
from vitucb.serving.deployed_agent import MAX_UNANSWERED, DeployedAgent
from vitucb.serving.run_agent import read_run_agent
from vitucb.types import State


def load_agent(
    folder: str | Path,
    *,
    device: str = "cpu",
    max_unanswered: int | None = None,
    reward_range: tuple[float, float] | None = None,
    trust: Sequence[str] = (),
) -> DeployedAgent:
    """An agent that goes on exactly where it was saved.

    Bit for bit, with the versions, the number of torch threads and the device it was saved with.
    Nothing that the folder names is imported or asked for on a network, save what is in vitucb's
    own tables and what you trust.

    Args:
        folder: What was given to `save`; or a run folder, finished or not.
        device: Torch device.
        max_unanswered: Most decisions that wait for their reward; as before by default.
        reward_range: Least and largest reward that is learnt; as before by default.
        trust: Packages or modules that names in the folder may refer to, which runs their code;
            `hub` lets a backbone's weights come from the network.

    Raises:
        ValueError: If the folder is neither, was written in another format, a file is missing
            or damaged, or it names what is not trusted; says which.
    """
    folder = Path(folder).resolve()
    with reading_folder(folder, trust):
        return _load(folder, device, max_unanswered, reward_range)


def _load(
    folder: Path,
    device: str,
    max_unanswered: int | None,
    reward_range: tuple[float, float] | None,
) -> DeployedAgent:
    if (folder / MANIFEST).is_file():
        blueprint, state = read_agent(folder)
    elif (folder / "config.yaml").is_file() and (folder / "checkpoint").is_dir():
        blueprint, state = read_run_agent(folder)
    else:
        raise ValueError(
            f"{folder} holds neither a saved agent ({MANIFEST}) nor a run (config.yaml and "
            "checkpoint/); name the folder given to save, or a run folder"
        )
    blueprint = _as_it_was(blueprint, state)
    try:
        if max_unanswered is None:
            max_unanswered = int(state["table"]["capacity"]) if "table" in state else MAX_UNANSWERED
        if reward_range is None and "reward_range" in state:  # older folders do not tell
            low, high = map(float, state["reward_range"])
            reward_range = low, high
    except _MISFITS as error:
        raise ValueError(f"{folder}: its state is of another kind: {_told(error)}") from error
    try:
        deployed = _build(blueprint, device, max_unanswered, reward_range)
    except _MISFITS as error:
        raise ValueError(f"{folder}: config.yaml makes no agent: {_told(error)}") from error
    try:
        deployed.restore(state)
    except _MISFITS as error:
        raise ValueError(f"{folder}: the state does not fit config.yaml: {_told(error)}") from error
    return deployed


def _as_it_was(blueprint: Blueprint, state: State) -> Blueprint:
    """Before it had experts `vit-ucb` was the adapted network alone, and its settings said none."""
    config, learnt = blueprint.config, state.get("agent")
    is_older = isinstance(learnt, dict) and "trainer" in learnt and "history" in learnt
    if config.name == "vit-ucb" and config.experts is None and is_older:
        alone = dataclasses.replace(config, experts=("adapted",))
        return dataclasses.replace(blueprint, config=alone)
    return blueprint


# What settings and states of the wrong kind make agents raise; ValueErrors say enough themselves.
_MISFITS = (LookupError, TypeError, RuntimeError, AttributeError, ArithmeticError, AssertionError)


def _told(error: BaseException) -> str:
    return " ".join(repr(error).split())[:300]


def deploy(
    name: str = "vit-ucb",
    *,
    num_arms: int,
    shares_image: bool = False,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    seed: int = 0,
    device: str = "cpu",
    max_unanswered: int = MAX_UNANSWERED,
    reward_range: tuple[float, float] | None = None,
    config: AgentConfig | None = None,
    **overrides: Any,
) -> DeployedAgent:
    """A new agent that has learnt nothing yet, without an environment.

    A warning names the settings that it ignores.

    Args:
        name: A name of `vitucb list agents`, or an import path `module:factory`.
        num_arms: Number of arms K; with an image per arm other numbers may be offered, too, save
            to agents that know arms by their number.
        shares_image: Whether one image is the context of all arms.
        image_shape: Height, width, channels, for agents that ask; others may be shown, too.
        seed: Seed of the adapters, the replay, the policy and so on.
        device: Torch device.
        max_unanswered: Most decisions that wait for their reward.
        reward_range: Least and largest reward that is learnt, for a service whose rewards come
            from outside: others are refused. Any up to 1e30 in size by default.
        config: Settings to start from; the defaults if None.
        **overrides: Fields of `AgentConfig`, as in `make_agent`.

    Raises:
        ValueError: If a name or a setting is not usable.

    Example:
        >>> import numpy as np
        >>> import vitucb
        >>> agent = vitucb.deploy("lin-ucb", num_arms=3, reward_range=(0, 1))
        >>> decision = agent.act(np.zeros((3, 32, 32, 3), np.uint8))
        >>> agent.observe(decision, reward=1.0).outcome
        'learnt'
    """
    settings = override(config or AgentConfig(), {"name": name, **overrides}, "agent.")
    if overrides:
        warn_of_ignored(settings)
    shape = tuple(whole_number("image_shape", side) for side in image_shape)
    arms = whole_number("num_arms", num_arms)
    blueprint = Blueprint(settings, seed, arms, shares_image, shape)
    return _build(blueprint, device, max_unanswered, reward_range)


def _build(
    blueprint: Blueprint,
    device: str,
    max_unanswered: int,
    reward_range: tuple[float, float] | None,
) -> DeployedAgent:
    config = blueprint.config
    agent = make_agent(
        config.name, blueprint.stand_in(), seed=blueprint.seed, device=device, config=config
    )
    return DeployedAgent(agent, blueprint, max_unanswered=max_unanswered, reward_range=reward_range)
