"""Checks that several settings share."""

from __future__ import annotations

from typing import Any

from vitucb.config.options import normalised
from vitucb.storage.limits import check_limit

FREE_OPTIONS = ("env.options", "agent.options", "agent.optimizer.options")
"""The settings that are options free in name."""


def normalise_options(section: Any, prefix: str) -> None:
    """Check the options of a frozen `section` and read truth values in any case."""
    object.__setattr__(section, "options", normalised(section.options, f"{prefix}options"))


def check_most(section: Any, prefix: str, limit_name: str, *names: str) -> None:
    """Refuse values of `section` above the limit called `limit_name`; None is none."""
    for name in names:
        check_limit(limit_name, getattr(section, name) or 0, f"{prefix}{name}")


def check_least(section: Any, prefix: str, least: dict[str, int]) -> None:
    """Refuse values of `section` below the least; None is none."""
    for name, bound in least.items():
        value = getattr(section, name)
        if value is not None and value < bound:
            raise ValueError(f"{prefix}{name} {value} must be at least {bound}")
