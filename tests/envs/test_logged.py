from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest

import vitucb
import vitucb.envs
from vitucb.envs.data.logged_rounds import LoggedRounds
from vitucb.envs.logged import LoggedEnv, made_up_log


def uneven_log(
    rounds: int, seed: int
) -> tuple[LoggedRounds, np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    """Two arms with means 0.2 and 0.8, logged with probabilities that depend on the context."""
    rng = np.random.default_rng(seed)
    p = np.where(rng.random(rounds) < 0.5, 0.8, 0.3)[:, None] * [1, -1] + [0, 1]
    actions = (rng.random(rounds) >= p[:, 0]).astype(np.int64)
    means = np.tile([0.2, 0.8], (rounds, 1))
    log = LoggedRounds(
        name="uneven",
        images=np.zeros((2, 2, 2, 3), np.uint8),
        items=np.tile([0, 1], (rounds, 1)),
        mask=np.ones((rounds, 2), np.int8),
        actions=actions,
        rewards=(rng.random(rounds) < means[np.arange(rounds), actions]).astype(float),
        propensities=p[np.arange(rounds), actions],
        expected_rewards=means,
    )
    return log, p


def play(env: LoggedEnv, action: int, seed: int = 0) -> list[float]:
    env.reset(seed=seed)
    rewards, over = [], False
    while not over:
        _, _, _, over, _ = env.step(action)
        rewards += [reward for _, reward in env.arrivals]
    return rewards


def test_accepted_rounds_are_those_of_the_logged_action_in_a_uniform_log() -> None:
    log = made_up_log(200)
    env = LoggedEnv(log, shuffle=False)
    accepted = play(env, 2)
    assert accepted == log.rewards[log.actions == 2].tolist()
    assert env.acceptance_rate == (log.actions == 2).mean()
    assert env.accepted_mean_reward == pytest.approx(np.mean(accepted))


def test_thinning_makes_an_uneven_log_tell_the_value_of_an_arm() -> None:
    log, p = uneven_log(20_000, seed=0)
    env = LoggedEnv(log)
    for arm, mean in enumerate((0.2, 0.8)):
        accepted = play(env, arm)
        assert np.mean(accepted) == pytest.approx(mean, abs=4 * 0.4 / math.sqrt(len(accepted)))
        assert env.acceptance_rate == pytest.approx(p.min(), abs=0.02)


def test_rejected_rounds_pay_nothing_and_say_so() -> None:
    log = made_up_log(50)
    env = LoggedEnv(log, shuffle=False)
    env.reset(seed=0)
    assert math.isnan(env.acceptance_rate)
    for index, logged in enumerate(log.actions):
        action = (int(logged) + index % 2) % 4
        _, reward, terminated, truncated, info = env.step(action)
        assert info["accepted"] == (index % 2 == 0)
        assert env.arrivals == ([(index, log.rewards[index])] if info["accepted"] else [])
        assert reward == env.drawn_reward == (log.rewards[index] if info["accepted"] else 0)
        assert (terminated, truncated) == (False, index == 49)
        assert log.expected_rewards is not None
        assert info["regret"] == log.expected_rewards[index].max() - info["expected_reward"]
    with pytest.raises(ValueError, match="all 50 rounds are played; call reset"):
        env.step(0)


def test_the_order_follows_the_seed_and_not_the_actions() -> None:
    env = LoggedEnv()
    streams = []
    for seed, action in ((1, 0), (1, 3), (2, 0)):
        obs, _ = env.reset(seed=seed)
        streams.append([obs["images"], *(env.step(action)[0]["images"] for _ in range(5))])
    np.testing.assert_array_equal(streams[0], streams[1])
    assert not np.array_equal(streams[0], streams[2])


def test_a_long_log_is_played_to_its_end() -> None:
    env = gymnasium.make("vitucb/Logged-v0", dataset=made_up_log(1_050))
    env.reset(seed=0)
    played, truncated = 0, False
    while not truncated:
        _, _, _, truncated, _ = env.step(0)
        played += 1
    assert played == 1_050


def test_propensities_are_needed_unless_uniform_is_assumed() -> None:
    log, _ = uneven_log(10, seed=0)
    bare = LoggedRounds(
        "bare", log.images, log.items, log.mask, log.actions, log.rewards, propensities=None
    )
    with pytest.raises(ValueError, match=r"field 'propensity' is missing.*assume_uniform"):
        LoggedEnv(bare)
    env = LoggedEnv(bare, assume_uniform=True)
    _, info = env.reset(seed=0)
    assert math.isnan(info["expected_reward"])
    assert env.step(0)[4]["optimal_action"] == -1
    assert np.isnan(env.expected_rewards).all()


def test_a_masked_arm_is_refused() -> None:
    log, _ = uneven_log(10, seed=0)
    mask = np.tile(np.array([1, 0], np.int8), (10, 1))
    env = LoggedEnv(
        LoggedRounds(
            "m", log.images, log.items, mask, np.zeros(10, np.int64), log.rewards, np.ones(10)
        )
    )
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action 1 is not on offer"):
        env.step(1)


def test_an_agent_learns_from_accepted_rounds_only() -> None:
    env = gymnasium.make("vitucb/Logged-v0", dataset=made_up_log(80), disable_env_checker=True)
    agent = vitucb.make_agent("ucb1", env)
    rounds = list(vitucb.run(env, agent, seed=0))
    assert len(rounds) == 80
    assert agent.state_dict()["pulls"].sum() == env.unwrapped.num_accepted  # type: ignore[attr-defined]
    assert 0 < env.unwrapped.num_accepted < 60  # type: ignore[attr-defined]


def test_it_renders_and_refuses_other_modes() -> None:
    env = gymnasium.make("vitucb/Logged-v0", render_mode="rgb_array")
    env.reset(seed=0)
    image = env.render()
    assert isinstance(image, np.ndarray)
    assert image.shape == (8, 32, 3)
    with pytest.raises(ValueError, match="unknown render_mode"):
        LoggedEnv(render_mode="human")
