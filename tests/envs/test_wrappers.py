from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vitucb.config import EnvConfig, RunConfig, override
from vitucb.envs import DelayedReward, DriftingRewards, RandomArmSubset
from vitucb.envs.delayed_reward import draw_delay
from vitucb.envs.drifting_rewards import cyclic_permutation, drift_share
from vitucb.envs.image_dataset import ImageDataset
from vitucb.experiment import make_env
from vitucb.runner import run
from vitucb.types import Decision, Observation, State

Env: TypeAlias = gymnasium.Env[Any, Any]
WRAPPERS: dict[str, Callable[[Env], Env]] = {
    "delay": lambda env: DelayedReward(env, "geometric", 3, loss_probability=0.2),
    "drift": lambda env: DriftingRewards(env, "recurring", at=4, period=5),
    "subset": lambda env: RandomArmSubset(env, 2),
}


def _dataset() -> ImageDataset:
    labels = np.arange(12, dtype=np.int64) % 4
    images = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 3), np.uint8)
    return ImageDataset("tiny", images, labels, class_names=tuple("abcd"))


def _arms(reward: str = "gaussian", horizon: int = 1000, **kwargs: Any) -> Env:
    kwargs = dict[str, Any](dataset=_dataset(), num_arms=4, reward=reward) | kwargs
    return gymnasium.make("vitucb/ImageArms-v0", max_episode_steps=horizon, **kwargs)


def _unwrapped(env: Env) -> Any:
    return env.unwrapped


def _play(env: Env, rounds: int = 30, seed: int | None = 3) -> list[dict[str, Any]]:
    """Play the first arm on offer; everything seen, in order."""
    obs, _ = env.reset(seed=seed)
    seen = []
    for _ in range(rounds):
        means = np.array(_unwrapped(env).expected_rewards)
        action = int(np.flatnonzero(obs["action_mask"])[0])
        images, mask = obs["images"][:, 0, 0, 0].tolist(), obs["action_mask"].tolist()
        obs, reward, _, _, info = env.step(action)
        row = {"images": images, "mask": mask, "means": means.tolist(), "action": action, **info}
        row["reward"] = None if math.isnan(reward) else reward
        row["arrivals"] = _attribute(env, "arrivals")
        row["lost"] = _attribute(env, "lost")
        row["drawn"] = _attribute(env, "drawn_reward")
        seen.append(row)
    return seen


def _attribute(env: Any, name: str) -> Any:
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None


def _context() -> Env:
    kwargs: dict[str, Any] = {"dataset": _dataset(), "match_reward": 0.9, "mismatch_reward": 0.2}
    return gymnasium.make("vitucb/ImageContext-v0", **kwargs)


@pytest.mark.parametrize("make", [_arms, _context], ids=["arms", "context"])
@pytest.mark.parametrize("names", list(itertools.permutations(WRAPPERS)))
def test_the_order_of_wrappers_changes_nothing(
    names: Sequence[str], make: Callable[[], Env]
) -> None:
    first, other = make(), make()
    for name in WRAPPERS:
        first = WRAPPERS[name](first)
    for name in names:
        other = WRAPPERS[name](other)
    assert _play(other) == _play(first)


@pytest.mark.parametrize("name", list(WRAPPERS))
def test_wrapping_changes_neither_images_nor_noise(name: str) -> None:
    rows, bare = _play(WRAPPERS[name](_arms())), _play(_arms())
    assert [row["images"] for row in rows] == [row["images"] for row in bare]
    for row, other in zip(rows, bare, strict=True):
        if row["action"] == other["action"]:
            drawn = row["reward"] if row["drawn"] is None else row["drawn"]
            noise = drawn - row["expected_reward"]
            assert noise == pytest.approx(other["reward"] - other["expected_reward"])


@pytest.mark.parametrize("name", list(WRAPPERS))
def test_a_seed_repeats_an_episode_and_another_differs(name: str) -> None:
    env = WRAPPERS[name](_arms())
    first = _play(env)
    again = _play(env, seed=None)
    assert again != first
    assert _play(env) == first
    assert _play(env, seed=None) == again
    assert _play(env, seed=4) != first


@pytest.mark.parametrize("name", list(WRAPPERS))
def test_an_environment_is_wrapped_once_by_each(name: str) -> None:
    env = WRAPPERS[name](WRAPPERS["drift" if name == "delay" else "delay"](_arms()))
    with pytest.raises(ValueError, match="wraps this environment already; wrap it once"):
        WRAPPERS[name](env)


@pytest.mark.parametrize("name", list(WRAPPERS))
def test_the_spec_rebuilds_the_wrapped_environment(name: str) -> None:
    env = WRAPPERS[name](_arms())
    assert env.spec is not None
    assert _play(gymnasium.make(env.spec)) == _play(env)


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version")
@pytest.mark.parametrize(
    "env",
    [
        DriftingRewards(_arms("bernoulli").unwrapped, "gradual", at=1, period=3),
        RandomArmSubset(_arms("bernoulli").unwrapped, min_arms=4),
    ],
    ids=["drift", "subset"],
)
def test_check_env_accepts_wrapped_environments(env: Env) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")
        check_env(env)


@settings(max_examples=30, deadline=None)
@given(
    law=st.sampled_from(["fixed", "uniform", "geometric", "heavy-tailed"]),
    delay=st.integers(0, 9),
    loss=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
def test_every_reward_arrives_at_most_once_unchanged_and_never_early(
    law: Any, delay: int, loss: float, seed: int
) -> None:
    rows = _play(DelayedReward(_arms(), law, delay, loss), rounds=40, seed=seed)
    arrived = [
        (step, round, reward) for step, row in enumerate(rows) for round, reward in row["arrivals"]
    ]
    rounds = [round for _, round, _ in arrived]
    assert len(rounds) == len(set(rounds))
    assert all(step >= round and rows[round]["drawn"] == reward for step, round, reward in arrived)
    assert all(row["reward"] is None for row in rows)
    if delay == 0 and loss == 0:
        assert rounds == list(range(40))
    if law == "fixed" and loss == 0:
        assert [(s, r) for s, r, _ in arrived] == [(r + delay, r) for r in range(40 - delay)]
    lost = [round for row in rows for round in row["lost"]]
    assert not set(lost) & set(rounds)
    assert len(lost) == {0.0: 0, 1.0: 40}.get(loss, len(lost))
    if law == "fixed":  # nothing else keeps a reward away
        assert sorted(lost + rounds)[: 40 - delay] == list(range(40 - delay))


def test_delays_do_not_depend_on_the_actions() -> None:
    arrivals: list[list[list[int]]] = []
    for arm in (0, 3):
        env = DelayedReward(_arms(), "uniform", 5, 0.3)
        env.reset(seed=1)
        arrivals.append([])
        for _ in range(50):
            env.step(arm)
            arrivals[-1].append([round for round, _ in env.arrivals])
    assert arrivals[0] == arrivals[1]
    flat = [round for rounds in arrivals[0] for round in rounds]
    assert flat != sorted(flat)  # out of order


@pytest.mark.parametrize("law", ["fixed", "uniform", "geometric", "heavy-tailed"])
def test_delay_laws_have_the_stated_mean(law: Any) -> None:
    rng = np.random.default_rng(0)
    tail = 4.0  # finite variance, so that the sample mean tells something
    delays = np.array([draw_delay(law, 8, tail, rng) for _ in range(20_000)])
    assert delays.min() >= 0
    assert abs(delays.mean() - 8) <= 4 * delays.std() / math.sqrt(len(delays))


def test_uniform_and_geometric_delays_follow_their_law() -> None:
    rng = np.random.default_rng(1)
    uniform = np.array([draw_delay("uniform", 3, 1.5, rng) for _ in range(7000)])
    assert stats.chisquare(np.bincount(uniform, minlength=7)).pvalue > 0.01
    geometric = np.array([draw_delay("geometric", 3, 1.5, rng) for _ in range(7000)])
    edges = np.append(np.bincount(geometric)[:6], (geometric >= 6).sum())
    law = stats.geom(1 / 4, loc=-1)
    expected = [*law.pmf(range(6)), law.sf(5)]
    assert stats.chisquare(edges, np.array(expected) * 7000).pvalue > 0.01


def test_heavy_tail_decays_with_its_index() -> None:
    rng = np.random.default_rng(2)
    delays = np.array([draw_delay("heavy-tailed", 10, 1.5, rng) for _ in range(50_000)])
    for x in (20, 100, 1000):
        probability = (1 + x / 5) ** -1.5  # s = 10 (1.5 - 1)
        test = stats.binomtest(int((delays > x).sum()), len(delays), probability)
        # Rounding moves mass by less than one round: compare with the neighbours' laws.
        assert (
            test.pvalue > 1e-3
            or (1 + (x + 1) / 5) ** -1.5 <= (delays > x).mean() <= (1 + (x - 1) / 5) ** -1.5
        )


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
    env = _arms(horizon=300)
    for name in WRAPPERS:
        env = WRAPPERS[name](env)
    agent = _Witness()
    rounds = list(run(env, agent, seed=5))
    drawn = {round.index: round.reward for round in rounds}
    assert len(drawn) == 300
    assert all(drawn[index] == reward for index, reward in agent.rewards.items())
    assert 200 < len(agent.rewards) < 280  # a fifth is lost, the last few are pending
    assert sum(round.regret for round in rounds) == pytest.approx(rounds[-1].cumulative_regret)


def test_an_environment_with_arrivals_of_its_own_is_not_delayed() -> None:
    env = _arms()
    _unwrapped(env).arrivals = []
    with pytest.raises(ValueError, match="says itself when rewards arrive"):
        DelayedReward(env)


def test_pending_rewards_are_forgotten_at_reset() -> None:
    env = DelayedReward(_arms(), "fixed", 2)
    env.reset(seed=0)
    assert math.isnan(env.drawn_reward)
    env.step(0)
    assert not math.isnan(env.drawn_reward)
    env.reset()
    assert math.isnan(env.drawn_reward)
    env.step(0)
    env.step(0)
    assert env.arrivals == []
    env.step(0)
    assert [round for round, _ in env.arrivals] == [0]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"law": "normal"}, "unknown delay law 'normal'; known: fixed, uniform, geometric, heavy-"),
        ({"delay": -1}, "delay -1 is not usable; give an integer >= 0"),
        ({"delay": 2.5}, "delay 2.5"),
        ({"loss_probability": 1.5}, "loss_probability 1.5 is no probability; give 0 to 1"),
        ({"loss_probability": math.nan}, "loss_probability nan"),
        ({"tail": 1.0}, "tail 1.0 leaves the delay without a mean; give a number > 1"),
    ],
)
def test_delay_arguments_out_of_range_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DelayedReward(_arms(), **kwargs)


def test_abrupt_drift_permutes_the_means_at_its_round_and_reset_restores_them() -> None:
    env = DriftingRewards(_arms(), "abrupt", at=5)
    for _ in range(2):
        env.reset(seed=0)
        start = _unwrapped(env).class_rewards.copy()
        assert start.tolist() == [0, 1, 2, 3]
        for round in range(10):
            means = _unwrapped(env).class_rewards
            assert sorted(means) == [0, 1, 2, 3]
            assert (means == start).all() if round < 5 else (means != start).all()
            *_, info = env.step(0)
            assert info["optimal_reward"] == 3


def test_regret_is_against_the_means_of_the_round() -> None:
    rows = _play(DriftingRewards(_arms(), "gradual", at=3, period=8), rounds=20)
    for row in rows:
        assert row["expected_reward"] == row["means"][row["action"]]
        assert row["optimal_reward"] == max(row["means"])
        assert row["regret"] == row["optimal_reward"] - row["expected_reward"]


@pytest.mark.parametrize(
    ("kind", "shares"),
    [
        ("abrupt", [0, 0, 1, 1, 1, 1, 1, 1]),
        ("gradual", [0, 0, 0, 0.5, 1, 1, 1, 1]),
        ("recurring", [0, 0, 1, 1, 0, 0, 1, 1]),
    ],
)
def test_share_of_the_new_means_by_round(kind: Any, shares: list[float]) -> None:
    assert [drift_share(kind, round, at=2, period=2) for round in range(8)] == shares


@given(count=st.integers(2, 12), seed=st.integers(0, 1000))
def test_cyclic_permutations_are_permutations_without_fixed_points(count: int, seed: int) -> None:
    permutation = cyclic_permutation(count, np.random.default_rng(seed))
    assert sorted(permutation) == list(range(count))
    assert (permutation != np.arange(count)).all()


def test_cyclic_permutations_are_uniform() -> None:
    rng = np.random.default_rng(0)
    drawn = [tuple(cyclic_permutation(4, rng).tolist()) for _ in range(3000)]
    counts = [drawn.count(permutation) for permutation in set(drawn)]
    assert len(counts) == 6  # (4-1)!
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"kind": "sudden"}, "unknown drift 'sudden'; known: abrupt, gradual, recurring"),
        ({"period": 3}, "period 3 has no use with abrupt drift; remove it"),
        ({"kind": "gradual"}, "gradual drift needs a period"),
        ({"kind": "recurring", "period": 0}, "period 0 is not usable; give an integer >= 1"),
        ({"at": -1}, "at -1 is not usable"),
    ],
)
def test_drift_arguments_out_of_range_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DriftingRewards(_arms(), **kwargs)


def test_rated_items_and_foreign_environments_cannot_drift() -> None:
    images = np.zeros((4, 2, 2, 3), np.uint8)
    rated = ImageDataset("rated", images, scores=np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="a rated set has no classes"):
        DriftingRewards(_arms("score", dataset=rated))
    with pytest.raises(ValueError, match="needs an environment with class_rewards"):
        DriftingRewards(gymnasium.make("CartPole-v1"))


def test_optimum_and_regret_are_among_the_arms_on_offer() -> None:
    sizes = []
    for row in _play(RandomArmSubset(_arms(), 2, 3), rounds=300):
        offered = np.flatnonzero(row["mask"])
        means = np.array(row["means"])
        assert len(means) == 4
        assert row["optimal_reward"] == means[offered].max()
        assert row["optimal_action"] in offered
        assert row["expected_reward"] == means[row["action"]]
        assert row["regret"] == row["optimal_reward"] - row["expected_reward"]
        sizes.append(len(offered))
    assert set(sizes) == {2, 3}


def test_every_subset_of_a_size_is_as_likely() -> None:
    masks = [tuple(row["mask"]) for row in _play(RandomArmSubset(_arms(), 2, 2), rounds=900)]
    counts = [masks.count(mask) for mask in set(masks)]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 0.01


def test_choosing_a_masked_arm_is_an_error_that_names_the_others() -> None:
    env = RandomArmSubset(_arms(), 2, 2)
    obs, _ = env.reset(seed=0)
    masked = int(np.flatnonzero(obs["action_mask"] == 0)[0])
    offered = np.flatnonzero(obs["action_mask"]).tolist()
    with pytest.raises(ValueError, match=rf"action {masked} is masked .* \[{offered[0]}, "):
        env.step(masked)
    with pytest.raises(ValueError, match="action 9 is no arm"):
        env.step(9)


def test_writing_to_the_mask_changes_nothing() -> None:
    env = RandomArmSubset(_arms(), 2, 2)
    obs, _ = env.reset(seed=0)
    masked = int(np.flatnonzero(obs["action_mask"] == 0)[0])
    obs["action_mask"][:] = 1
    with pytest.raises(ValueError, match="is masked"):
        env.step(masked)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"min_arms": 0}, "min_arms 0 is not usable; give an integer >= 1"),
        ({"min_arms": 5}, "there are 4 arms; give at most 4"),
        ({"max_arms": 5}, "there are 4 arms; give at most 4"),
        ({"min_arms": 3, "max_arms": 2}, "max_arms 2 is not usable; give an integer >= 3"),
    ],
)
def test_subset_arguments_out_of_range_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomArmSubset(_arms(), **kwargs)


def test_environments_that_hide_their_means_cannot_be_masked() -> None:
    with pytest.raises(ValueError, match="needs an environment with expected_rewards"):
        RandomArmSubset(gymnasium.make("CartPole-v1"))


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
        ({"drift": {"kind": "gradual", "period": 0}}, "period 0 is not usable"),
        ({"delay": {"law": "fixed", "rounds": -1}}, "delay -1 is not usable"),
        ({"arm_subset": {"min_arms": 4}}, "there are 3 arms; give at most 3"),
    ],
)
def test_wrapper_settings_that_do_not_fit_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        _from_config(values)
    assert "\n" not in str(caught.value)
