"""Rewards that come later, out of order, or never."""

from __future__ import annotations

import heapq
import math
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

import gymnasium
import numpy as np

from vitucb.envs.wrappers.base import BanditWrapper, Obs, StepResult, require_integer

DelayLaw: TypeAlias = Literal["fixed", "uniform", "geometric", "heavy-tailed"]


class DelayedReward(BanditWrapper):
    """Holds every reward back for a random number of rounds.

    `step` returns reward NaN, whatever arrives: nothing can leak through it. What arrived is in
    `arrivals`. One delay and one loss are drawn per round, whatever the action: agents with one
    seed face the same delays. With delay 0 a reward arrives in the step that drew it. What is
    still pending when the episode ends never arrives.

    Args:
        env: An image bandit.
        law: Law of the delay D, in rounds, of mean `delay`:
            `fixed`: D = delay.
            `uniform`: uniform on 0..2*delay.
            `geometric`: P(D = d) = p (1-p)^d with p = 1/(1+delay), d = 0, 1, ...
            `heavy-tailed`: Lomax (Pareto II) of tail index `tail` and mean `delay`, that is
            P(X > x) = (1 + x/s)^-tail with s = delay (tail-1), rounded up or down at random so
            that the mean stays.
        delay: Mean delay, rounds.
        loss_probability: Probability that a reward never arrives.
        tail: Tail index of `heavy-tailed`, above 1; at most 2 means infinite variance.

    Attributes:
        arrivals: `(round, reward)` of the rewards that arrived at the end of the last step,
            0-based rounds, in order of arrival.
        lost: Rounds whose reward is known since the last step never to arrive, for whoever keeps
            what waits for rewards; no agent can know them.
        drawn_reward: Reward drawn for the round just played, known to the recorder only; NaN
            before the first.

    Raises:
        ValueError: If an argument is out of range, or the environment delays its rewards already or
            has `arrivals` of its own.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        law: DelayLaw = "geometric",
        delay: int = 32,
        loss_probability: float = 0.0,
        tail: float = 1.5,
    ) -> None:
        super().__init__(env, law=law, delay=delay, loss_probability=loss_probability, tail=tail)
        if law not in get_args(DelayLaw):
            raise ValueError(f"unknown delay law {law!r}; known: {', '.join(get_args(DelayLaw))}")
        if not _is_number(loss_probability) or not 0 <= loss_probability <= 1:
            raise ValueError(
                f"loss_probability {loss_probability!r} is no probability; give 0 to 1"
            )
        if not _is_number(tail) or not 1 < tail < math.inf:
            raise ValueError(f"tail {tail!r} leaves the delay without a mean; give a number > 1")
        if hasattr(env.unwrapped, "arrivals"):
            raise ValueError(f"DelayedReward: {env.unwrapped} says itself when rewards arrive")
        self.law, self.delay = law, require_integer("delay", delay, 0)
        self.loss_probability, self.tail = float(loss_probability), float(tail)
        self.arrivals: list[tuple[int, float]] = []
        self.lost: list[int] = []
        self.drawn_reward = math.nan

    def _begin(self, obs: Obs) -> Obs:
        self._round = 0
        self._pending: list[tuple[int, int, float]] = []  # heap of (due round, round, reward)
        self.arrivals, self.lost, self.drawn_reward = [], [], math.nan
        return obs

    def step(self, action: Any) -> StepResult:
        """Play a round; its reward joins `arrivals` when its delay is over."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.drawn_reward = float(reward)
        is_lost = self.rng.random() < self.loss_probability
        due = self._round + draw_delay(self.law, self.delay, self.tail, self.rng)
        self.lost = [self._round] if is_lost else []
        if not is_lost:
            heapq.heappush(self._pending, (due, self._round, self.drawn_reward))
        self.arrivals = []
        while self._pending and self._pending[0][0] <= self._round:
            self.arrivals.append(heapq.heappop(self._pending)[1:])
        self._round += 1
        return obs, math.nan, terminated, truncated, info


def draw_delay(law: DelayLaw, mean: int, tail: float, rng: np.random.Generator) -> int:
    """One delay in rounds, >= 0, of the given law and mean; see `DelayedReward`."""
    if law == "fixed":
        return mean
    if law == "uniform":
        return int(rng.integers(0, 2 * mean, endpoint=True))
    if law == "geometric":
        return int(rng.geometric(1 / (1 + mean))) - 1
    lomax = mean * (tail - 1) * rng.pareto(tail)
    return math.floor(lomax + rng.random())  # E floor(x + U) = x: rounding keeps the mean


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
