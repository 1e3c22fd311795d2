"""Building an agent by its name, from Python: `make_agent`."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from vitucb.agents import AGENTS
from vitucb.agents.context import require_image_bandit
from vitucb.agents.saving import Blueprint, Savable
from vitucb.agents.settings import warn_of_ignored
from vitucb.config import AgentConfig, override
from vitucb.devices import check_device, open_device
from vitucb.registry import lookup
from vitucb.types import Agent

# Modules draw their first weights from torch's one global generator, which threads share.
_BUILDING = threading.RLock()


_METHODS = ("select_action", "update", "state_dict", "load_state_dict")


def _own_modes() -> contextlib.AbstractContextManager[None]:
    """None of the caller's modes of torch: see `with_gradients`."""
    if "torch" not in sys.modules:  # nor has it modes then, and agents may do without
        return contextlib.nullcontext()
    from vitucb.models.grad_mode import with_gradients

    return with_gradients()


def make_agent(
    name: str,
    env: gym.Env[Any, Any],
    *,
    seed: int = 0,
    device: str = "cpu",
    config: AgentConfig | None = None,
    **overrides: Any,
) -> Agent:
    """Build an agent for `env`; a warning names the settings that it ignores.

    Args:
        name: A name of `vitucb list agents`, or an import path `module:factory`.
        env: The environment it will play, or one like it.
        seed: Seed of the adapters, the replay, the policy and so on.
        device: Torch device.
        config: Settings to start from; the defaults if None.
        **overrides: Fields of `AgentConfig`, e.g. `backbone="vitucb-nano-2"`; a section takes a
            mapping, a section instance, or its name alone, e.g. `optimizer="lora-rite"`.

    Raises:
        TypeError: If `env` is no environment, or several.
        ValueError: If a name or a setting is not usable, `env` has no images, or the device is not
            here.

    Example:
        >>> import gymnasium as gym
        >>> import vitucb
        >>> env = gym.make("vitucb/ImageArms-v0", num_arms=3)
        >>> agent = vitucb.make_agent("lin-ucb", env, policy={"alpha": 0.5}, seed=1)
        >>> observation, _ = env.reset(seed=0)
        >>> agent.select_action(observation).mean.shape
        (3,)
    """
    require_image_bandit(env)
    check_device(device)
    open_device(device)
    config = override(config or AgentConfig(), {"name": name, **overrides}, "agent.")
    if overrides:
        warn_of_ignored(config)
    factories = {key: entry.factory for key, entry in AGENTS.items()}
    factory: Callable[[AgentConfig, gym.Env[Any, Any], int, str], Agent]
    factory = lookup("agent", config.name, factories)
    with _BUILDING, _own_modes():
        agent = factory(config, env, seed, device)
    if missing := [name for name in _METHODS if not callable(getattr(agent, name, None))]:
        raise ValueError(
            f"agent.name {config.name!r} made a {type(agent).__name__} without "
            f"{', '.join(missing)}; name a factory of agents"
        )
    if isinstance(agent, Savable):
        agent.blueprint = Blueprint.of(config, env, seed)
    return agent
