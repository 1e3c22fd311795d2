"""Checks that several settings share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitucb.config.options import normalised
from vitucb.config.override import flatten, shown, to_dict
from vitucb.storage.limits import check_limit

FREE_OPTIONS = ("env.options", "agent.options", "agent.optimizer.options")
"""The settings that are options free in name."""


def normalise_options(section: Any, prefix: str) -> None:
    """Check the options of a frozen `section` and read truth values in any case."""
    object.__setattr__(section, "options", normalised(section.options, f"{prefix}options"))


def check_text(section: Any) -> None:
    """Refuse text that no file in UTF-8 can hold, e.g. a path whose bytes are of another encoding.

    Raises:
        ValueError: Names setting and value.
    """
    for key, value in flatten(to_dict(section)).items():
        for text in value if isinstance(value, list) else (value,):
            # Python keeps bytes that it could not decode as surrogates, which have no encoding.
            if isinstance(text, str) and any("\ud800" <= c <= "\udfff" for c in text):
                raise ValueError(
                    f"{key} {shown(text)} is no text in UTF-8, and could not be read back from "
                    "config.yaml; give another name, or rename the file or folder"
                )


def check_most(section: Any, prefix: str, limit_name: str, *names: str) -> None:
    """Refuse values of `section` above the limit called `limit_name`; None is none."""
    for name in names:
        check_limit(limit_name, getattr(section, name) or 0, f"{prefix}{name}")


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers that a setting may be.

    Attributes:
        low: The least.
        high: The most.
        is_low_out: Whether `low` itself is left out.
        is_high_out: Whether `high` itself is left out.
    """

    low: float = -math.inf
    high: float = math.inf
    is_low_out: bool = False
    is_high_out: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` is one of them; NaN and the infinities never are."""
        is_above = value > self.low if self.is_low_out else value >= self.low
        is_below = value < self.high if self.is_high_out else value <= self.high
        return is_above and is_below and abs(value) != math.inf

    def __str__(self) -> str:
        """What a value must be, in words."""
        if math.isinf(self.low):
            return "a finite number"
        if math.isinf(self.high):
            return f"{'above' if self.is_low_out else 'at least'} {self.low:g}"
        ends = "(" if self.is_low_out else "[", ")" if self.is_high_out else "]"
        return f"in {ends[0]}{self.low:g}, {self.high:g}{ends[1]}"


ANY, POSITIVE, NOT_NEGATIVE = Range(), Range(0, is_low_out=True), Range(0)
ONE_OR_MORE, PROBABILITY = Range(1), Range(0, 1)
# Each has a stack of its own, and libraries that cannot make so many end the process.
THREADS = Range(1, 10_000)


def check_ranges(section: Any, prefix: str, ranges: Mapping[str, Range]) -> None:
    """Refuse numbers of `section` out of their range; those without one must be finite.

    Fields that are None, which stands for a default, are left alone.

    Raises:
        ValueError: Names setting, value and what it must be.
    """
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        allowed = ranges.get(field.name, ANY)
        if not allowed.holds(value):
            finite = ", and finite" if abs(value) == math.inf else ""
            raise ValueError(f"{prefix}{field.name} {shown(value)} must be {allowed}{finite}")
