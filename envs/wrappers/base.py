"""What the wrappers of image bandits share: a stream of their own, derived from the reset seed."""

from __future__ import annotations

import zlib
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

Obs: TypeAlias = dict[str, NDArray[Any]]
StepResult: TypeAlias = tuple[Obs, float, bool, bool, dict[str, Any]]


class BanditWrapper(gymnasium.Wrapper[Obs, Any, Obs, Any], RecordConstructorArgs):
    """Wraps an image bandit without touching its streams.

    The wrapper draws from a generator of its own, a function of the reset seed and of its class
    alone. So wrapping changes neither images nor reward noise, the order of wrappers changes
    nothing, and `reset(seed)` with the same actions repeats an episode exactly.

    Args:
        env: The environment.
        **arguments: What the wrapper was constructed with, for `env.spec`.

    Raises:
        ValueError: If `env` has a wrapper of this class already: they would undo each other.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], **arguments: Any) -> None:
        RecordConstructorArgs.__init__(self, **arguments)
        gymnasium.Wrapper.__init__(self, env)
        name = type(self).__name__
        inner: gymnasium.Env[Any, Any] = env
        while isinstance(inner, gymnasium.Wrapper):
            if type(inner) is type(self):
                raise ValueError(f"{name} wraps this environment already; wrap it once")
            inner = inner.env
        self._rng: np.random.Generator | None = None

    @property
    def rng(self) -> np.random.Generator:
        """The wrapper's own generator; there is one from the first reset on."""
        assert self._rng is not None, "gymnasium's order enforcing resets first"
        return self._rng

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Start an episode; without a seed every stream goes on where it was."""
        obs, info = self.env.reset(seed=seed, options=options)
        if seed is not None or self._rng is None:
            # crc32 and not hash(): the latter is salted per process.
            key = (zlib.crc32(type(self).__name__.encode()),)
            self._rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
        return self._begin(obs), info

    def _begin(self, obs: Obs) -> Obs:
        """Prepare round 0, whose observation is `obs`; returns what the agent sees."""
        raise NotImplementedError


def require_attribute(env: gymnasium.Env[Any, Any], attribute: str, wrapper: str) -> None:
    """Refuse an environment that lacks what a wrapper works on.

    Raises:
        ValueError: If the innermost environment has no such attribute.
    """
    # On the class too: a property may need a reset before it can be read.
    inner = env.unwrapped
    if not hasattr(type(inner), attribute) and not hasattr(inner, attribute):
        raise ValueError(f"{wrapper} needs an environment with {attribute}; {inner} has none")


def require_integer(name: str, value: object, least: int) -> int:
    """`value` if it is an integer of at least `least`.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} {value!r} is not usable; give an integer >= {least}")
    return int(value)
