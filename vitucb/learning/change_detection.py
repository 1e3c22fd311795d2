"""Noticing that rewards have drifted: the errors of predictions shift."""

from __future__ import annotations

import math
from collections import deque

from vitucb.types import State

_ROUNDING = 1e-12


class ChangeDetector:
    """Compares the mean of the newest prediction errors with that of the ones before.

    A model that still fits has errors of mean zero whatever it chooses; after the rewards of
    classes change, the choices it believes in disappoint. The alarm is raised when the two means
    differ by `threshold` standard errors (Welch's statistic), and then all errors are forgotten.
    """

    def __init__(self, window: int = 50, reference: int = 200, threshold: float = 5.0) -> None:
        """Start without errors.

        Args:
            window: Newest errors, rounds.
            reference: Errors before them, at most; a quarter of it must be there.
            threshold: Standard errors; 5 keeps false alarms below one in about 10^5 rounds.
        """
        self._window, self._reference, self._threshold = window, reference, threshold
        self._errors: deque[float] = deque(maxlen=window + reference)

    def add(self, error: float) -> bool:
        """Take in reward minus prediction; whether the errors have shifted."""
        self._errors.append(error)
        if len(self._errors) < self._window + self._reference // 4:
            return False
        errors = list(self._errors)
        old, new = errors[: -self._window], errors[-self._window :]
        (m0, v0), (m1, v1) = _moments(old), _moments(new)
        error_of_difference = math.sqrt(v0 / len(old) + v1 / len(new)) or math.inf
        # Equal errors have means and variances of rounding errors, which are no shift.
        rounding = _ROUNDING * (abs(m0) + abs(m1))
        has_shifted = abs(m1 - m0) > self._threshold * error_of_difference + rounding
        if has_shifted:
            self._errors.clear()
        return has_shifted

    def state_dict(self) -> State:
        """The errors held."""
        return {"errors": list(self._errors)}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._errors.clear()
        self._errors.extend(float(error) for error in state["errors"])


def _moments(values: list[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    return mean, sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)
