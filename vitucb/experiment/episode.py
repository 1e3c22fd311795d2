"""The interaction loop: one long episode, one `Round` at a time, that can be taken up again."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vitucb.experiment.reward_wrappers import check_reward_wrappers, wrapper_of_rewards
from vitucb.experiment.round_checks import (
    checked_decision,
    checked_info,
    checked_metrics,
    checked_reward,
    copied_observation,
    first_observation,
    require_players,
)
from vitucb.seeding import stream_seed
from vitucb.types import (
    Agent,
    Decision,
    Observation,
    Round,
    State,
    decision_from_state,
    decision_state,
)

_logger = logging.getLogger(__name__)


def run(
    env: gym.Env[Any, Any], agent: Agent, *, seed: int = 0, num_rounds: int | None = None
) -> Iterator[Round]:
    """Play `agent` in `env` and yield every finished round.

    Args:
        env: An image bandit; its info holds expected_reward, optimal_reward, regret,
            optimal_action.
        agent: The bandit algorithm.
        seed: Seed of the environment; agents run with one seed face the same contexts and noise.
        num_rounds: Stop after so many rounds; by default when the environment truncates.

    Raises:
        ValueError: If a reward is not usable or no arm is allowed. Rounds yielded before stay
            valid.

    Example:
        >>> import gymnasium as gym
        >>> import vitucb
        >>> env = gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=100)
        >>> rounds = list(vitucb.run(env, vitucb.make_agent("ucb1", env), num_rounds=10))
        >>> rounds[-1].index
        9
    """
    episode = Episode(env, agent, seed=seed)
    while not episode.is_over and (num_rounds is None or episode.index < num_rounds):
        yield episode.play_round()


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a file says of a round played before.

    Attributes:
        action: Chosen arm.
        reward: Reward drawn, as in `Round.reward`.
        regret: Pseudo-regret.
    """

    action: int
    reward: float
    regret: float


class Episode:
    """One agent in one environment from the first round to the last.

    Rewards may come late: an environment with an attribute `arrivals` says after every step which
    `(round, reward)` arrived, has the reward drawn for the round itself in `drawn_reward`, and may
    name in `lost` the rounds whose reward will never come. Every decision waits for its reward.

    Attributes:
        agent: The one that plays.
        index: Rounds played so far.
        is_over: Whether the environment has ended the episode.
        cumulative_regret: Sum of the regrets so far.
    """

    def __init__(self, env: gym.Env[Any, Any], agent: Agent, *, seed: int = 0) -> None:
        """Reset `env`; the agent is expected to be fresh, or restored before `resume`.

        Raises:
            TypeError: If `env` is no environment or `agent` no agent.
            ValueError: If a wrapper of rewards would be passed by, see `check_reward_wrappers`, the
                agent was built for other arms, or `reset` returned no observation.
        """
        require_players(env, agent)
        check_reward_wrappers(env)
        self._env, self.agent = env, agent
        self._changes_rewards = wrapper_of_rewards(env)
        self._obs = first_observation(env.reset(seed=stream_seed(seed, "env")))
        self.index, self.is_over, self.cumulative_regret = 0, False, 0.0
        self._pending: dict[int, tuple[Observation, Decision]] = {}

    def play_round(self) -> Round:
        """Choose, step, learn from every reward that arrived.

        Raises:
            ValueError: If a reward is not finite or above 1e30 in size, which is learnt by nobody,
                if no arm is allowed, or if images are of another kind than declared.
        """
        index = self.index
        obs = copied_observation(index, self._obs, self._env)
        expected = getattr(self._env.unwrapped, "expected_rewards", None)
        is_told = expected is not None and not self._changes_rewards
        expected = np.array(expected, np.float64) if is_told else None
        classes = _told_classes(self._env, len(obs["action_mask"]))
        started = time.perf_counter()
        decision = self.agent.select_action(obs)
        seconds = time.perf_counter() - started
        decision = checked_decision(index, decision, len(obs["action_mask"]))
        self._pending[index] = (obs, decision)
        reward, info, arrivals = self._step(decision.action)
        started = time.perf_counter()
        metrics = self._learn(arrivals)
        seconds += time.perf_counter() - started
        self.cumulative_regret += float(info["regret"])
        return Round(
            index=index,
            observation=obs,
            decision=decision,
            reward=reward,
            expected_reward=float(info["expected_reward"]),
            optimal_reward=float(info["optimal_reward"]),
            optimal_action=int(info["optimal_action"]),
            expected_rewards=expected,
            regret=float(info["regret"]),
            cumulative_regret=self.cumulative_regret,
            metrics=metrics,
            seconds=seconds,
            arm_classes=classes,
        )

    def _step(self, action: int) -> tuple[float, dict[str, Any], Sequence[tuple[int, float]]]:
        """Play `action`; the reward drawn, the info, and the `(round, reward)` that arrived."""
        index = self.index
        self._obs, paid, terminated, truncated, info = self._env.step(action)
        arrivals: Sequence[tuple[int, float]] | None = None
        if self._env.has_wrapper_attr("arrivals"):
            arrivals = list(self._env.get_wrapper_attr("arrivals"))
            paid = self._env.get_wrapper_attr("drawn_reward")
        reward = checked_reward(index, "the environment returned reward", paid)
        info = checked_info(index, info)
        if self._changes_rewards:
            info = self._without_means(info)
        if self._env.has_wrapper_attr("lost"):
            for lost in self._env.get_wrapper_attr("lost"):
                self._pending.pop(lost, None)
        self.index, self.is_over = index + 1, bool(terminated or truncated)
        return reward, info, [(index, reward)] if arrivals is None else arrivals

    def _without_means(self, info: dict[str, Any]) -> dict[str, Any]:
        """The info of a round whose means are in another unit than its reward."""
        if self.index == 0 and not math.isnan(float(info["regret"])):
            _logger.warning(
                "%s changes rewards, and not the means and regrets in info, which are of the "
                "rewards before: they are taken as unknown (NaN); to have them, change info in "
                "step, too",
                self._changes_rewards,
            )
        unknown = dict.fromkeys(("expected_reward", "optimal_reward", "regret"), math.nan)
        return info | unknown | {"optimal_action": -1}

    def _learn(self, arrivals: Sequence[tuple[int, float]]) -> dict[str, float]:
        """Hand every reward to the agent with the decision that earned it."""
        reports = []
        for index, reward in arrivals:
            if index not in self._pending:
                raise ValueError(
                    f"round {self.index - 1}: a reward of round {index} arrived, which was "
                    "rewarded before or never played; check the environment's arrivals"
                )
            learnt = checked_reward(self.index - 1, f"of round {index} arrived reward", reward)
            report = self.agent.update(*self._pending.pop(index), learnt)
            reports.append(checked_metrics(self.index - 1, report))
        return merged_metrics(reports)

    def state_dict(self) -> State:
        """Counters and the decisions that wait; their observations come back with `resume`."""
        return {
            "index": self.index,
            "cumulative_regret": self.cumulative_regret,
            "pending": {i: decision_state(d) for i, (_, d) in self._pending.items()},
        }

    def resume(self, state: State, recorded: Sequence[Recorded]) -> None:
        """Take up what `state_dict` described, by playing the recorded actions again.

        Args:
            state: What `state_dict` returned.
            recorded: The rounds 0..index-1.

        Raises:
            ValueError: If the environment does not give the recorded rewards again.
        """
        waiting = {int(i): decision_from_state(d, self.agent) for i, d in state["pending"].items()}
        for row in recorded[: int(state["index"])]:
            index = self.index
            # Copied before the environment writes the next round into it.
            obs = copied_observation(index, self._obs, self._env) if index in waiting else None
            reward, info, _ = self._step(row.action)
            played, recorded_before = (reward, float(info["regret"])), (row.reward, row.regret)
            # The regret is NaN where the environment hides it.
            if not np.array_equal(played, recorded_before, equal_nan=True):
                raise ValueError(
                    f"the environment does not repeat round {index}: reward {reward!r}, regret "
                    f"{info['regret']!r}, but {row.reward!r}, {row.regret!r} were recorded; "
                    "restore its data and versions, or start anew with --overwrite"
                )
            if obs is not None:
                self._pending[index] = (obs, waiting[index])
        self.cumulative_regret = float(state["cumulative_regret"])


def merged_metrics(reports: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The metrics of a round in which several rewards arrived, or none.

    `train/...` is averaged, since every update trained on a batch of its own; the rest describes
    the agent after the round, so the last report stands.
    """
    merged: dict[str, float] = {}
    for name in dict.fromkeys(name for report in reports for name in report):
        values = [report[name] for report in reports if name in report]
        is_mean = name.startswith("train/") and len(values) > 1
        merged[name] = sum(values) / len(values) if is_mean else values[-1]
    return merged


def _told_classes(env: gym.Env[Any, Any], num_arms: int) -> NDArray[np.int64] | None:
    """Classes of the arms on offer now, where the environment tells one for each."""
    classes = getattr(env.unwrapped, "arm_classes", None)
    if classes is None or np.shape(classes) != (num_arms,):
        return None
    return np.array(classes, np.int64)
