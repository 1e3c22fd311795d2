"""Most of everything that a file, a folder or a caller may ask for: all limits, in one place.

A file of a kilobyte can ask for terabytes. What is read from a file is therefore held against these
limits before memory is set aside or work begins. Each can be changed in the environment:
`VITUCB_LIMIT_ARMS=50000` for `arms`. They are far above what honest files need.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

_PREFIX = "VITUCB_LIMIT_"


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits by default."""

    arms: int = 10_000
    """Arms on offer: of an agent, an environment, an observation, a recorded action."""
    observation_mib: int = 256
    """Images of one observation, MiB: 1,000 arms of 224 px take 144."""
    waiting_mib: int = 1_024
    """What is kept of decisions that wait for rewards, MiB; past it the oldest is forgotten."""
    config_mib: int = 1
    """A YAML file, MiB."""
    config_nodes: int = 100_000
    """Values of a YAML file, with every alias counted as what it stands for."""
    depth: int = 100
    """How deep lists and mappings may lie in each other, in YAML, JSON and states."""
    json_mib: int = 64
    """A JSON file, MiB."""
    table_mib: int = 1_024
    """A table of text (rounds, metrics, log, manifest), MiB."""
    npz_mib: int = 256
    """Arrays of an NPZ file, MiB, if they are more than `npz_ratio` times the file."""
    npz_ratio: int = 100
    """How often an NPZ file above `npz_mib` may hold its size: digits shrink tenfold, zeros a
    thousandfold."""
    log_cells: int = 20_000_000
    """Rounds of a log times the most arms (or actions) of a round; 9 bytes each and more later."""
    image_pixels: int = 50_000_000
    """Pixels of one image: 150 MB decoded."""
    batch_mib: int = 64
    """Decoded images that an evaluation looks at together, MiB; one at least."""
    state_mib: int = 512
    """Arrays of a checkpoint, MiB, if they are more than `state_ratio` times what is on disk."""
    state_ratio: int = 64
    """How often a checkpoint above `state_mib` may hold what is on disk: equal pieces are one."""
    rank: int = 4_096
    """Rank of adapters, and rank or width of a sketch, in a config."""
    image_side: int = 4_096
    """Side of a backbone's input in a config, pixels."""
    option: int = 65_536
    """Any whole number among an agent's own options."""
    model_layers: int = 256
    """Blocks of a backbone whose folder describes it."""
    model_width: int = 65_536
    """Any other number in such a description."""
    model_parameters: int = 64
    """Parameters of such a backbone, times 2^20, that are more than its folder has bytes."""


def limit(name: str) -> int:
    """The limit called `name`, as the environment has it.

    Raises:
        ValueError: If the environment gives no positive integer.
    """
    text = os.environ.get(_PREFIX + name.upper())
    if text is None:
        return int(getattr(_DEFAULT, name))
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise ValueError(f"{_PREFIX}{name.upper()} {text!r} is no limit; give a positive integer")
    return value


_DEFAULT = Limits()


def limits() -> Limits:
    """All limits, as the environment has them."""
    return Limits(**{field.name: limit(field.name) for field in dataclasses.fields(Limits)})


def check_limit(name: str, value: float, what: str) -> None:
    """Refuse a `value` above the limit called `name`; `what` says of what, and of which file.

    Raises:
        ValueError: Names value, limit, and the variable that changes it.
    """
    most = limit(name)
    if value > most:
        raise ValueError(
            f"{what} {_written(value)} is above the limit of {most:,}; if it is right, set "
            f"{_PREFIX}{name.upper()}"
        )


def check_observation(num_images: int, image_bytes: int, what: str) -> None:
    """Refuse more images, or larger ones, than an observation may have; see `check_limit`."""
    check_limit("arms", num_images, f"{what}: its images,")
    size = num_images * image_bytes
    check_limit("observation_mib", size >> 20, f"{what}: the size of its images in MiB,")


def _written(value: float) -> str:
    return f"{value:,.0f}" if abs(value) < 1e15 else "(a huge number)"
