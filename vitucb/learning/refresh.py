"""When the rows of the covariance, stale since the adapters moved, are computed anew."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Literal

from vitucb.types import State

_FIRST_REBUILD = 16
_PROBE_EVERY_ROUNDS = 32
# A rebuild of n rows is paid for over n / 8 rounds at least: less than one pass over K arms each.
_ROWS_PER_ROUND = 8
LEAST_WEIGHT = 1e-3
"""Weight below which a discounted choice is left out of a rebuild."""


@dataclass(frozen=True, slots=True)
class RefreshSettings:
    """When rows are computed anew.

    Attributes:
        rebuild: `drift`, `doubling` or `none`; see `vitucb.config.agent.TrainingConfig`.
        drift_threshold: Relative movement of the probe that triggers a rebuild.
        discount: Weight of a row after one more round.
    """

    rebuild: Literal["drift", "doubling", "none"] = "drift"
    drift_threshold: float = 0.2
    discount: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.discount <= 1:
            raise ValueError(f"agent.training.discount {self.discount} must be in (0, 1]")
        if not self.drift_threshold > 0:
            raise ValueError(
                f"agent.training.drift_threshold {self.drift_threshold} must be above 0"
            )


class RefreshSchedule:
    """Rebuilds when the history has doubled, and when a probe of it has moved."""

    def __init__(self, settings: RefreshSettings) -> None:
        """Start before the first round."""
        self.settings = settings
        self._next_rebuild, self._next_probe = _FIRST_REBUILD, 0

    def is_rebuild_due(self, now: int) -> bool:
        """Whether the history has doubled, at `now` rounds."""
        return self.settings.rebuild != "none" and now >= self._next_rebuild

    def is_probe_due(self, now: int) -> bool:
        """Whether to look how far the probe has moved."""
        return self.settings.rebuild == "drift" and now >= self._next_probe

    def has_moved(self, drift: float) -> bool:
        """Whether a relative movement of the probe calls for a rebuild."""
        return drift > self.settings.drift_threshold

    def probed(self, now: int, rows: int) -> None:
        """The probe was looked at, with so many rows in the history."""
        self._next_probe = now + max(_PROBE_EVERY_ROUNDS, rows // _ROWS_PER_ROUND)

    def rebuilt(self, now: int, rows: int) -> None:
        """All rows are about to be computed anew."""
        self._next_rebuild = now + max(_FIRST_REBUILD, min(now, self._memory))
        self.probed(now, rows)

    def restart(self, now: int) -> None:
        """The history was forgotten: the next rebuild is due as at the start."""
        self._next_rebuild = now + _FIRST_REBUILD

    @property
    def _memory(self) -> int:
        """Rounds after which a discounted choice hardly counts, and its row can go."""
        gamma = self.settings.discount
        return math.ceil(math.log(LEAST_WEIGHT) / math.log(gamma)) if gamma < 1 else sys.maxsize

    def state_dict(self) -> State:
        """The rounds that are due next."""
        return {"next_rebuild": self._next_rebuild, "next_probe": self._next_probe}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._next_rebuild, self._next_probe = int(state["next_rebuild"]), int(state["next_probe"])
