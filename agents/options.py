"""Reading `agent.options`, the settings that only one agent has."""

from __future__ import annotations

import dataclasses
import math
from typing import TypeVar

from vitucb.config import AgentConfig, OptimizerConfig, override
from vitucb.storage.limits import check_limit

OptionsT = TypeVar("OptionsT")


def read_options(defaults: OptionsT, config: AgentConfig) -> OptionsT:
    """`defaults`, a frozen dataclass, with the fields named in `config.options` replaced.

    Raises:
        ValueError: If an option is unknown or has the wrong type; names it and what is known.
    """
    options = override(defaults, config.options, "agent.options.")
    for field in dataclasses.fields(defaults):  # type: ignore[arg-type]  # a dataclass
        value = getattr(options, field.name)
        if isinstance(value, int):
            check_limit("option", value, f"agent.options.{field.name}")
    return options


def refuse_options(config: AgentConfig) -> None:
    """For agents without settings of their own.

    Raises:
        ValueError: If `config.options` is not empty.
    """
    if config.options:
        names = ", ".join(sorted(config.options))
        raise ValueError(f"agent.options {names}: agent {config.name!r} has none; remove them")


def check_optimizer_options(config: OptimizerConfig) -> None:
    """Refuse options of the optimizer that have a setting of their own.

    Raises:
        ValueError: Names the option, and the settings.
    """
    for name in ("lr", "other_lr", "other_params"):
        if name in config.options:
            raise ValueError(
                f"agent.optimizer.options.{name} {config.options[name]}: set agent.optimizer.lr or "
                "agent.optimizer.head_lr instead"
            )


def require_positive(**values: float) -> None:
    """Refuse options that are not positive and finite.

    Raises:
        ValueError: Names the option.
    """
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"agent.options.{name} {value} must be positive and finite")
