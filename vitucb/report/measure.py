"""What agents are compared by: regret where the environment knows the mean rewards, else reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure that is summed over rounds.

    Attributes:
        name: What it is called, which is also its column of `rounds.csv`.
        sign: 1 where less of it is better, -1 where more is.
        better: Whether a `lower` or a `higher` one is better.
    """

    name: Literal["regret", "reward"]
    sign: Literal[1, -1]
    better: Literal["lower", "higher"]

    def cost(self, value: float) -> float:
        """`value` so that less of it is better."""
        return self.sign * value


REGRET = Measure("regret", 1, "lower")
REWARD = Measure("reward", -1, "higher")
