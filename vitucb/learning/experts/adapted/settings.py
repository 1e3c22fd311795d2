"""Settings of the `adapted` expert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vitucb.learning.experts.adapted.schedule import Schedule

_SCHEDULE = Schedule()


@dataclass(frozen=True, slots=True)
class AdaptedSettings:
    """How the expert learns and how wide it is.

    Attributes:
        alpha: Multiplier of the width in the bonus.
        width: Features of the width: those of the adapted network, of the frozen one, or no width.
        batch_size: Images of a step, drawn from the replay with replacement.
        read_every: Rewards between two looks at the averaged weights.
        catch_up_steps: Steps at most that `wake` takes.
        discount: Weight of a reward after one more, for rewards that drift.
        schedule: When to train, and at which rate.
    """

    alpha: float = 0.6
    width: Literal["adapted", "frozen", "none"] = "frozen"
    batch_size: int = 16
    read_every: int = 16
    catch_up_steps: int = 200
    discount: float = 1.0
    schedule: Schedule = _SCHEDULE

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ValueError: If a number is out of range or the width is unknown.
        """
        if self.width not in ("adapted", "frozen", "none"):
            raise ValueError(f"unknown width {self.width!r}; known: adapted, frozen, none")
        if not 0 < self.discount <= 1:
            raise ValueError(f"discount {self.discount} must be in (0, 1]")
        if not self.alpha >= 0:
            raise ValueError(f"alpha {self.alpha} must not be negative")
        for name, least in (("batch_size", 1), ("read_every", 1), ("catch_up_steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)} must be at least {least}")
