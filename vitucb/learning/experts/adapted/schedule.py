"""When a network that learns online trains, and at which rate, by the number of rewards.

Every reward deserves a step, from the first few dozen on. With few rewards the network may move
fast: there is little to forget. With many, a step sees a small part of them, and slower ones
average over more. The figures were chosen on tuning images for one image with ten labels.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """When to train, and how the rate falls.

    Attributes:
        start: Rewards before the first step; fewer teach a network nothing but themselves.
        warm_up: Steps over which the rate of the adapters rises to its value.
        flat_until: Rewards up to which the rate stays there.
        power: Exponent of its fall from then on.
    """

    start: int = 64
    warm_up: int = 20
    flat_until: int = 1_000
    power: float = 0.3

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ValueError: If a count is below 1 or the power is negative.
        """
        for name in ("start", "warm_up", "flat_until"):
            if getattr(self, name) < 1:
                raise ValueError(f"schedule.{name} {getattr(self, name)} must be at least 1")
        if not self.power >= 0:
            raise ValueError(f"schedule.power {self.power} must not be negative")


def warm_up(step: int, schedule: Schedule) -> float:
    """Factor of the adapters' rate in step number `step`, 1 for the first: min(1, step / 20)."""
    return min(1.0, step / schedule.warm_up)


def decay(rewards: float, schedule: Schedule) -> float:
    """Factor of all rates after `rewards` rewards: min(1, 1000 / t)^0.3."""
    factor: float = min(1.0, schedule.flat_until / max(rewards, 1.0)) ** schedule.power
    return factor


def effective_rewards(rewards: int, discount: float) -> float:
    """Rewards that still count where each counts `discount` times as much a reward later.

    Never more than 1 / (1 - discount): under drift the rate must not fall to nothing.
    """
    return float(rewards) if discount >= 1 else min(rewards, 1 / (1 - discount))
