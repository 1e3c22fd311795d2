"""What every wrapper must do, alone and with the others, and how a config sets them."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tests.envs.tiny_arms import Env, arms, play, tiny_dataset
from vitucb.config import EnvConfig, RunConfig, override
from vitucb.envs import DelayedReward, DriftingRewards, RandomArmSubset
from vitucb.experiment.environments import make_env
from vitucb.experiment.episode import run
from vitucb.types import Decision, Observation, State

WRAPPERS: dict[str, Callable[[Env], Env]] = {
    "delay": lambda env: DelayedReward(env, "geometric", 3, loss_probability=0.2),
    "drift": lambda env: DriftingRewards(env, "recurring", at=4, period=5),
    "subset": lambda env: RandomArmSubset(env, 2),
}


def _context() -> Env:
    kwargs: dict[str, Any] = {
        "dataset": tiny_dataset(),
        "match_reward": 0.9,
        "mismatch_reward": 0.2,
    }
    return gymnasium.make("vitucb/ImageContext-v0", **kwargs)


@pytest.mark.parametrize("make", [arms, _context], ids=["arms", "context"])
@pytest.mark.parametrize("names", list(itertools.permutations(WRAPPERS)))
def test_the_order_of_wrappers_changes_nothing(
    names: Sequence[str], make: Callable[[], Env]
) -> None:
    first, other = make(), make()
    for name in WRAPPERS:
        first = WRAPPERS[name](first)
    for name in names:
        other = WRAPPERS[name](other)
    assert play(other) == play(first)


@pytest.mark.parametrize("name", list(WRAPPERS))
def test_wrapping_changes_neither_images_nor_noise(name: str) -> None:
    rows, bare = play(WRAPPERS[name](arms())), play(arms())
    assert [row["images"] for row in rows] == [row["images"] for row in bare]
    for row, other in zip(rows, bare, strict=True):
        if row["action"] == other["action"]:
            drawn = row["reward"] if row["drawn"] is None else row["drawn"]
            noise = drawn - row["expected_reward"]
            assert noise == pytest.approx(other["reward"] - other["expected_reward"])


@pytest.mark.parametrize("name", list(WRAPPERS))
def test_a_seed_repeats_an_episode_and_another_differs(name: str) -> None:
    env = WRAPPERS[name](arms())
    first = play(env)
    again = play(env, seed=None)
    assert again != first
    assert play(env) == first
    assert play(env, seed=None) == again
    assert play(env, seed=4) != first


@pytest.mark.parametrize("name", list(WRAPPERS))
def test_an_environment_is_wrapped_once_by_each(name: str) -> None:
    env = WRAPPERS[name](WRAPPERS["drift" if name == "delay" else "delay"](arms()))
    with pytest.raises(ValueError, match="wraps this environment already; wrap it once"):
        WRAPPERS[name](env)


@pytest.mark.parametrize("name", list(WRAPPERS))
def test_the_spec_rebuilds_the_wrapped_environment(name: str) -> None:
    env = WRAPPERS[name](arms())
    assert env.spec is not None
    assert play(gymnasium.make(env.spec)) == play(env)


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version")
@pytest.mark.parametrize(
    "env",
    [
        DriftingRewards(arms("bernoulli").unwrapped, "gradual", at=1, period=3),
        RandomArmSubset(arms("bernoulli").unwrapped, min_arms=4),
    ],
    ids=["drift", "subset"],
)
def test_check_env_accepts_wrapped_environments(env: Env) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")
        check_env(env)


class _Witness:
    """Chooses at random and writes down which reward came for which decision."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.rewards: dict[int, float] = {}
        self.rounds = 0

    def select_action(self, obs: Observation) -> Decision:
        action = int(self.rng.choice(np.flatnonzero(obs["action_mask"])))
        self.rounds += 1
        zeros = np.zeros(len(obs["action_mask"]))
        return Decision(action, 1.0, zeros, zeros, None, self.rounds - 1, zeros)

    def update(self, obs: Observation, decision: Decision, reward: float) -> dict[str, float]:
        assert decision.round not in self.rewards
        self.rewards[decision.round] = reward
        return {}

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        pass


def test_the_runner_hands_every_reward_to_the_decision_that_earned_it() -> None:
    env = arms(horizon=300)
    for name in WRAPPERS:
        env = WRAPPERS[name](env)
    agent = _Witness()
    rounds = list(run(env, agent, seed=5))
    drawn = {round.index: round.reward for round in rounds}
    assert len(drawn) == 300
    assert all(drawn[index] == reward for index, reward in agent.rewards.items())
    assert 200 < len(agent.rewards) < 280  # a fifth is lost, the last few are pending
    assert sum(round.regret for round in rounds) == pytest.approx(rounds[-1].cumulative_regret)


def _from_config(values: dict[str, Any], rounds: int = 40) -> Env:
    config = override(RunConfig(), {"env": {"num_arms": 3} | values, "num_rounds": rounds})
    return make_env(config.env, config.num_rounds)


def test_a_config_selects_and_sets_every_wrapper() -> None:
    env = _from_config(
        {
            "delay": {"law": "heavy-tailed", "rounds": 7, "loss_probability": 0.1, "tail": 2},
            "drift": {"kind": "gradual", "at": 3, "period": 9},
            "arm_subset": {"min_arms": 2, "max_arms": 2},
        }
    )
    assert isinstance(env, DelayedReward)
    assert (env.law, env.delay, env.loss_probability, env.tail) == ("heavy-tailed", 7, 0.1, 2.0)
    drift = env.env
    assert isinstance(drift, DriftingRewards)
    assert (drift.kind, drift.at, drift.period) == ("gradual", 3, 9)
    subset = drift.env
    assert isinstance(subset, RandomArmSubset)
    assert (subset.min_arms, subset.max_arms) == (2, 2)


@pytest.mark.parametrize(
    ("kind", "at", "period"), [("abrupt", 20, None), ("gradual", 20, 4), ("recurring", 20, 4)]
)
def test_drift_rounds_follow_the_horizon_where_not_given(
    kind: str, at: int, period: int | None
) -> None:
    env = _from_config({"drift": {"kind": kind}})
    assert isinstance(env, DriftingRewards)
    assert (env.at, env.period) == (at, period)


def test_the_default_config_wraps_nothing() -> None:
    env = make_env(EnvConfig())
    assert not isinstance(env, DelayedReward | DriftingRewards | RandomArmSubset)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"drift": {"at": 3}}, "env.drift.kind is not set, .*at=3.* has no use without it"),
        ({"delay": {"loss_probability": 0.5}}, "env.delay.law is not set"),
        ({"arm_subset": {"max_arms": 2}}, "env.arm_subset.min_arms is not set"),
        ({"drift": {"kind": "abrupt", "at": 40}}, "env.drift.at 40 is past the last round 39"),
        (
            {"drift": {"kind": "abrupt", "at": 20}, "slate": {"slots": 2}},
            "env.drift.at 20 is past the last slate 19, and counts slates",
        ),
        ({"drift": {"kind": "gradual", "period": 0}}, "env.drift.period 0 must be at least 1"),
        ({"delay": {"law": "fixed", "rounds": -1}}, "env.delay.rounds -1 must be in"),
        ({"arm_subset": {"min_arms": 4}}, "there are 3 arms; give at most 3"),
    ],
)
def test_wrapper_settings_that_do_not_fit_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        _from_config(values)
    assert "\n" not in str(caught.value)
