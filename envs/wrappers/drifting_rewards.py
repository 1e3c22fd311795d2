"""Rewards whose means change while the images stay: abrupt, gradual and recurring drift."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vitucb.envs.wrappers.base import (
    BanditWrapper,
    Obs,
    StepResult,
    require_attribute,
    require_integer,
)

DriftKind: TypeAlias = Literal["abrupt", "gradual", "recurring"]


class DriftingRewards(BanditWrapper):
    """Permutes the classes that rewards go by, at once, little by little, or back and forth.

    The permutation is drawn from the reset seed among the cyclic ones: no class keeps its mean
    reward (means that were equal stay equal). Images and noise are those of the environment
    without drift, and regret is measured against the means of the round.

    Args:
        env: An image bandit with a writable array `class_rewards`, mean rewards by class (C,), or
            by class and label action (C, K); the last axis is permuted. Its content at
            construction is where every episode starts.
        kind: With m the means at the start and m' the permuted ones:
            `abrupt`: m' from round `at` on.
            `gradual`: from `at` on linearly from m to m', reached after `period` rounds.
            `recurring`: m' for `period` rounds from `at` on, then m for `period` rounds, and so on.
        at: First round with other means, 0-based.
        period: Rounds of the transition (`gradual`) or of a phase (`recurring`); without meaning
            and None for `abrupt`.

    Raises:
        ValueError: If an argument is out of range, or the environment has no class rewards to
            permute or drifts already.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        kind: DriftKind = "abrupt",
        at: int = 500,
        period: int | None = None,
    ) -> None:
        super().__init__(env, kind=kind, at=at, period=period)
        if kind not in get_args(DriftKind):
            raise ValueError(f"unknown drift {kind!r}; known: {', '.join(get_args(DriftKind))}")
        if kind == "abrupt" and period is not None:
            raise ValueError(f"period {period!r} has no use with abrupt drift; remove it")
        if kind != "abrupt" and period is None:
            raise ValueError(f"{kind} drift needs a period; give a number of rounds")
        require_attribute(env, "class_rewards", "DriftingRewards")
        self.kind, self.at = kind, require_integer("at", at, 0)
        self.period = None if period is None else require_integer("period", period, 1)
        self._start: NDArray[np.float64] = np.array(self._class_rewards)
        if self._start.shape[-1] < 2:
            raise ValueError("DriftingRewards needs rewards by class; a rated set has no classes")

    @property
    def _class_rewards(self) -> NDArray[np.float64]:
        inner: Any = self.env.unwrapped
        rewards: NDArray[np.float64] = inner.class_rewards
        return rewards

    def _begin(self, obs: Obs) -> Obs:
        self._round = 0
        self._permuted = self._start[..., cyclic_permutation(self._start.shape[-1], self.rng)]
        self._set_means()
        return obs

    def step(self, action: Any) -> StepResult:
        """Play a round under its means, then set those of the next one."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._round += 1
        self._set_means()
        return obs, float(reward), terminated, truncated, info

    def _set_means(self) -> None:
        share = drift_share(self.kind, self._round, self.at, self.period or 1)
        self._class_rewards[...] = (1 - share) * self._start + share * self._permuted


def drift_share(kind: DriftKind, round: int, at: int, period: int) -> float:
    """Share of the permuted means in `round`, from 0 (the start) to 1; see `DriftingRewards`."""
    since = round - at
    if since < 0:
        return 0.0
    if kind == "abrupt":
        return 1.0
    if kind == "gradual":
        return min(since / period, 1.0)
    return float(since // period % 2 == 0)


def cyclic_permutation(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A uniformly random permutation of 0..count-1 of one cycle, so that no element stays."""
    cycle = rng.permutation(count)
    permutation = np.empty(count, np.int64)
    permutation[cycle] = np.roll(cycle, 1)
    return permutation
