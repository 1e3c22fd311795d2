"""Rate and options of an optimizer for a network that learns online.

Optimizers move weights by different amounts at one rate, so one rate for all compares rates, not
optimizers: each has its own in `vitucb.optim.table`, found by one protocol on the embedded ViT.
Deeper and wider networks and adapters of higher rank get less, or training would undo what
pretraining has done.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vitucb.optim import ENTRIES

# An import path starts from AdamW's rate: a library's optimizer is most often a kind of Adam.
_LIKE_UNKNOWN = "adamw"
# Options that name another optimizer, to which those of the table need not apply.
_CHANGES_RULE = ("base", "inner")
# Adapted layers, width and rank in the embedded ViT for which the rates of the table hold.
_LAYERS, _WIDTH, _RANK = 16, 192, 8


def online_rate(name: str, num_layers: int, width: int, rank: int) -> float:
    """The rate of the adapters at which an optimizer learns online, unless told.

    That of the table times 16 / L, sqrt(192 / d) and 8 / r, none of them more than 1: the steps of
    all layers, and of all directions of an adapter, add up in what the network says, and from A
    random and B = 0 the largest stable rate of both factors falls as the root of the width (Hayou
    et al., 2024, https://arxiv.org/abs/2406.08447).

    Args:
        name: Of the optimizer, or its import path.
        num_layers: Adapted layers L.
        width: Of the network's tokens, d.
        rank: Of the adapters, r.
    """
    factors = (_LAYERS / num_layers, math.sqrt(_WIDTH / width), _RANK / rank)
    return (
        math.prod(min(1.0, factor) for factor in factors)
        * ENTRIES[name if name in ENTRIES else _LIKE_UNKNOWN].lr
    )


def is_of_measured_size(num_layers: int, width: int) -> bool:
    """Whether a network is no deeper and no wider than the embedded ViT.

    Args:
        num_layers: Adapted layers L.
        width: Of the network's tokens, d.
    """
    return num_layers <= _LAYERS and width <= _WIDTH


def online_options(name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the optimizer `name`: those asked for, on top of its own where these apply."""
    is_own = name in ENTRIES and not any(option in asked for option in _CHANGES_RULE)
    return {**(ENTRIES[name].options if is_own else {}), **asked}
