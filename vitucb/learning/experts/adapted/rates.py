"""The learning rate of each optimizer for a network that learns online, and its options.

Optimizers move weights by different amounts at one rate, so one rate for all compares rates, not
optimizers. Each has its own here, chosen by one protocol on images that no published figure uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Rate:
    """What an optimizer is built with where nothing else is asked for.

    Attributes:
        lr: Rate of the adapters; that of lora_A where the factors have two.
        options: Further arguments.
    """

    lr: float
    options: Mapping[str, Any] = field(default_factory=dict)


_ADAM = {"betas": (0.9, 0.99), "weight_decay": 0.0}
# A name that is not here, such as an import path, starts from AdamW's rate.
DEFAULT_RATE = 2e-3
RATES: dict[str, Rate] = {
    "adamw": Rate(2e-3, _ADAM),
    "lora-muon": Rate(2e-2),
}


def rate_of(name: str) -> Rate:
    """The rate and options of the optimizer `name`."""
    return RATES.get(name, Rate(DEFAULT_RATE))
