"""Running estimates that free the agents from the unit of the reward."""

from __future__ import annotations

import math

from vitucb.types import State

# A deviation of ten times that of as few rewards is no chance, and no model is that bad.
_LEVEL_REWARDS = 10
_LEVEL_RATIO = 10.0
# Least variance of the errors, of the square of the largest reward.
_LEAST_SHARE = 1e-12
# Least variance at all: squares of rewards below some 1e-150 are 0, and no width explores.
_LEAST = 1e-280


class ResidualNoise:
    """Standard deviation of the prediction errors, each made before its reward was seen.

    An average over the last `window` errors at most, so early errors of an untrained model fade. It
    starts from `prior`, which counts as one error. The first reward that is not 0 tells the unit:
    where it is below the prior, errors so far were made in too large a unit, and the average starts
    again from its size. Errors made before the level of the rewards was known are as large as that
    level: where they make the deviation ten times that of the rewards themselves, the average
    starts again from the latter. It is never below 1e-140, whatever the unit.
    """

    def __init__(self, prior: float = 1.0, window: int = 200) -> None:
        """Start from a prior.

        Args:
            prior: Standard deviation assumed before the first error, reward units.
            window: Time constant of the average, rounds.
        """
        self._prior: float | None = prior  # until the unit is known
        self._variance = prior**2
        self._count = 1
        self._window = window
        self._rewards, self._largest = RewardScale(), 0.0

    @property
    def std(self) -> float:
        """Current estimate, reward units, > 0."""
        return math.sqrt(self._variance)

    def add(self, error: float) -> None:
        """Take in one prediction error, reward units."""
        self._count += 1
        share = 1 / min(self._count, self._window)
        self._variance = max((1 - share) * self._variance + share * error**2, self._least)

    @property
    def _least(self) -> float:
        """A noiseless stream must not end with width 0 and a division by it."""
        return max(_LEAST_SHARE * (self._largest or 1.0) ** 2, _LEAST)

    def see(self, reward: float) -> None:
        """Look at a reward whose error was taken in, for its size and the level of all."""
        self._largest = max(self._largest, abs(reward))
        if self._prior is not None and reward != 0:
            if abs(reward) < self._prior:
                self._start_from(abs(reward))
            self._prior = None
        if self._rewards.count >= self._window:
            return  # The errors of the beginning have faded.
        self._rewards.add(reward)
        spread = self._rewards.spread
        if self._rewards.count >= _LEVEL_REWARDS and 0 < _LEVEL_RATIO * spread < self.std:
            self._start_from(spread)

    def _start_from(self, deviation: float) -> None:
        self._variance, self._count = max(deviation**2, self._least), 1

    def state_dict(self) -> State:
        """Variance, count, the prior while it waits for a reward, and the first rewards' scale."""
        return {
            "variance": self._variance,
            "count": self._count,
            "prior": self._prior,
            "rewards": self._rewards.state_dict(),
            "largest": self._largest,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._variance, self._count = float(state["variance"]), int(state["count"])
        self._prior = state.get("prior")
        self._largest = float(state.get("largest", 0.0))
        if "rewards" in state:  # not in older states
            self._rewards.load_state_dict(state["rewards"])


class RewardScale:
    """Mean and standard deviation of the rewards so far; Welford's update.

    Attributes:
        mean: Of the rewards, 0 before the first.
        count: Number of rewards.
    """

    def __init__(self) -> None:
        self.mean = 0.0
        self.count = 0
        self._squares = 0.0

    @property
    def spread(self) -> float:
        """Standard deviation, reward units; 0 until two different rewards were seen."""
        return math.sqrt(self._squares / self.count) if self._squares > 0 else 0.0

    @property
    def std(self) -> float:
        """Standard deviation, reward units; until two different rewards were seen, their size.

        That is at most 1, and 1 where there was none but 0.
        """
        return self.spread or min(abs(self.mean), 1.0) or 1.0

    def add(self, reward: float) -> None:
        """Take in one reward."""
        self.count += 1
        step = reward - self.mean
        self.mean += step / self.count
        self._squares += step * (reward - self.mean)

    def state_dict(self) -> State:
        """Count, mean and sum of squares."""
        return {"mean": self.mean, "squares": self._squares, "count": self.count}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self.mean, self._squares = float(state["mean"]), float(state["squares"])
        self.count = int(state["count"])
