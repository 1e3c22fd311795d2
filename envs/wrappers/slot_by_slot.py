"""Slates filled one position at a time, for agents that choose one arm."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np

from vitucb.envs.wrappers.base import BanditWrapper, Obs, StepResult
from vitucb.envs.wrappers.slate_arms import SlateArms, worth_in_last_position


class SlotBySlot(BanditWrapper):
    """Turns slates of m arms into m rounds of one arm each: any agent plays them.

    The images stay while a slate is filled, arms that it shows already are masked, and the rewards
    arrive when it is full. `step` returns reward NaN; what arrived is in `arrivals`, as that of
    `DelayedReward`. Regret is that of the position beside the same position of the best slate: it
    may be negative in one, never in a whole slate.

    What arrives of positions that are not always looked at is free of the position, see
    `worth_in_last_position`, for which the probabilities of the environment are used: agents learn
    what an arm is worth, and need not know where it stood. `drawn_reward` is what was paid.

    Args:
        env: A `SlateArms`.

    Attributes:
        slots: Positions of a slate, m.
        arrivals: `(round, worth)` of the rewards that arrived at the end of the last step, 0-based
            rounds.
        drawn_reward: Reward of the position just filled, known to the recorder only; NaN before
            the first.

    Raises:
        ValueError: If `env` shows no slates; in `step`, if the action is masked.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        if not isinstance(env, SlateArms):
            raise ValueError(f"SlotBySlot needs an environment in SlateArms, not {env}")
        self._slates = env
        self.slots = env.slots
        self.action_space = gymnasium.spaces.Discrete(env.num_arms)
        self.arrivals: list[tuple[int, float]] = []
        self.drawn_reward = math.nan

    def _begin(self, obs: Obs) -> Obs:
        self._round, self.arrivals, self.drawn_reward = 0, [], math.nan
        return self._begin_slate(obs)

    def _begin_slate(self, obs: Obs) -> Obs:
        self._slate: list[int] = []
        self._obs = obs
        return obs

    def step(self, action: Any) -> StepResult:
        """Fill a position; the rewards of all arrive with the last."""
        arm, position = int(action), len(self._slate)
        self._slates.check_arm(arm)
        if arm in self._slate:
            left = np.flatnonzero(self._left()["action_mask"]).tolist()
            raise ValueError(f"action {arm} is in the slate already; choose one of {left}")
        self._slate.append(arm)
        shown = self._slates.look(self._slate)
        self.drawn_reward, self.arrivals = float(shown.rewards[position]), []
        self._round += 1
        if position + 1 < self.slots:
            return self._left(), math.nan, False, False, shown.info_of(position)
        obs, _, terminated, truncated, _ = self.env.step(np.array(self._slate))
        self.arrivals = [
            (self._round - self.slots + k, worth_in_last_position(r, k, self._slates.examination))
            for k, r in enumerate(shown.rewards.tolist())
        ]
        return self._begin_slate(obs), math.nan, terminated, truncated, shown.info_of(position)

    def _left(self) -> Obs:
        """The observation with the arms of the slate masked."""
        mask = self._obs["action_mask"].copy()
        mask[self._slate] = 0
        return self._obs | {"action_mask": mask}
