"""Rate and options of an optimizer for a network that learns online.

Optimizers move weights by different amounts at one rate, so one rate for all compares rates, not
optimizers: each has its own in `vitucb.optim.table`, found by one protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitucb.optim import ENTRIES

# An import path starts from AdamW's rate: a library's optimizer is most often a kind of Adam.
_LIKE_UNKNOWN = "adamw"
# Options that name another optimizer, to which those of the table need not apply.
_CHANGES_RULE = ("base", "inner")


def online_rate(name: str) -> float:
    """The rate of the adapters at which the optimizer `name` learns online, unless told."""
    return ENTRIES[name if name in ENTRIES else _LIKE_UNKNOWN].lr


def online_options(name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the optimizer `name`: those asked for, on top of its own where these apply."""
    is_own = name in ENTRIES and not any(option in asked for option in _CHANGES_RULE)
    return {**(ENTRIES[name].options if is_own else {}), **asked}
