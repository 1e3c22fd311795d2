"""Late and lost rewards: each arrives once, unchanged, when its law of delays says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.envs.tiny_arms import arms, play, unwrapped
from vitucb.envs import DelayedReward
from vitucb.envs.wrappers.delayed_reward import draw_delay


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
    rows = play(DelayedReward(arms(), law, delay, loss), rounds=40, seed=seed)
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
        env = DelayedReward(arms(), "uniform", 5, 0.3)
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


def test_an_environment_with_arrivals_of_its_own_is_not_delayed() -> None:
    env = arms()
    unwrapped(env).arrivals = []
    with pytest.raises(ValueError, match="says itself when rewards arrive"):
        DelayedReward(env)


def test_pending_rewards_are_forgotten_at_reset() -> None:
    env = DelayedReward(arms(), "fixed", 2)
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
        DelayedReward(arms(), **kwargs)
