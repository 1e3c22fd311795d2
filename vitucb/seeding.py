"""One seed, many independent generators.

Every source of chance of a run is spawned by name from one `numpy.random.SeedSequence(seed)`, so
adding a stream never shifts another one, and the environment's stream cannot depend on the
agent's draws.
"""

from __future__ import annotations

import zlib
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def _sequence(seed: int, stream: str) -> np.random.SeedSequence:
    if not isinstance(seed, Integral):
        raise TypeError(f"seed {seed!r} is no integer; choose one >= 0")
    if seed < 0:
        raise ValueError(f"seed {seed} is negative; choose an integer >= 0")
    # crc32 and not hash(): the latter is salted per process.
    return np.random.SeedSequence(seed, spawn_key=(zlib.crc32(stream.encode()),))


def stream_seed(seed: int, stream: str) -> int:
    """A 63-bit seed for libraries that take an integer, e.g. `env.reset(seed=...)`."""
    return int(_sequence(seed, stream).generate_state(1, np.uint64)[0] >> np.uint64(1))


def numpy_generator(seed: int, stream: str) -> np.random.Generator:
    """The numpy generator of the named stream."""
    return np.random.default_rng(_sequence(seed, stream))


def torch_generator(seed: int, stream: str, device: str = "cpu") -> torch.Generator:
    """The torch generator of the named stream."""
    import torch

    return torch.Generator(device=device).manual_seed(stream_seed(seed, stream))
