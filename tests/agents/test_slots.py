"""Agents that never look: closed forms, masks, and the two tasks they are gates for."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import vitucb
from vitucb.agents.slots import UCB1, GaussianThompson, RandomAgent, SlotStatistics
from vitucb.types import Observation


def blank(num_arms: int, mask: list[int] | None = None) -> Observation:
    allowed = np.ones(num_arms) if mask is None else np.array(mask)
    return {
        "images": np.zeros((num_arms, 2, 2, 3), np.uint8),
        "action_mask": allowed.astype(np.int8),
    }


def regret(name: str, env_id: str, seed: int, rounds: int, **options: Any) -> float:
    env = gym.make(env_id, max_episode_steps=rounds, **options)
    agent = vitucb.make_agent(name, env, seed=seed)
    return list(vitucb.run(env, agent, seed=seed))[-1].cumulative_regret


def test_statistics_equal_numpy() -> None:
    rng = np.random.default_rng(0)
    slots, rewards = rng.integers(3, size=60), rng.normal(size=60)
    statistics = SlotStatistics(3)
    for slot, reward in zip(slots, rewards, strict=True):
        statistics.add(int(slot), float(reward))
    means = np.array([rewards[slots == k].mean() for k in range(3)])
    within = sum(((rewards[slots == k] - means[k]) ** 2).sum() for k in range(3))
    np.testing.assert_allclose(statistics.means, means)
    assert statistics.noise == pytest.approx(np.sqrt(within / 57))


def test_ucb1_pulls_every_slot_once_then_the_largest_bound() -> None:
    agent = UCB1(3, np.random.default_rng(0))
    rewards = [0.0, 1.0, 0.2]
    first = []
    for _ in range(3):
        decision = agent.select_action(blank(3))
        first.append(decision.action)
        agent.update(blank(3), decision, rewards[decision.action])
    assert sorted(first) == [0, 1, 2]
    for _ in range(30):
        decision = agent.select_action(blank(3))
        bound = agent.slots.means + agent.slots.noise * np.sqrt(
            2 * np.log(agent.rounds - 1) / agent.slots.pulls
        )
        assert decision.action == int(np.argmax(bound))
        agent.update(blank(3), decision, rewards[decision.action] + 0.1 * (agent.rounds % 2))


@pytest.mark.parametrize("kind", [RandomAgent, UCB1, GaussianThompson])
def test_masked_slots_are_never_chosen(kind: type[UCB1]) -> None:
    agent = kind(4, np.random.default_rng(0))
    for t in range(60):
        mask = [t % 2, 1, 0, (t + 1) % 2]
        decision = agent.select_action(blank(4, mask))
        assert mask[decision.action] == 1
        assert 0 < decision.propensity <= 1
        agent.update(blank(4, mask), decision, float(decision.action))


@pytest.mark.parametrize("name", ["ucb1", "gaussian-ts", "random"])
def test_restored_agent_continues_identically(name: str) -> None:
    env = gym.make("vitucb/DigitsPaper-v0", max_episode_steps=40)
    agent = vitucb.make_agent(name, env, seed=1)
    for _ in vitucb.run(env, agent, seed=1):
        pass
    restored = vitucb.make_agent(name, env, seed=99)
    restored.load_state_dict(agent.state_dict())
    for reward in (1.0, 3.0, -2.0, 5.0):
        one, two = agent.select_action(blank(10)), restored.select_action(blank(10))
        assert one.action == two.action
        agent.update(blank(10), one, reward)
        restored.update(blank(10), two, reward)


@pytest.mark.parametrize("name", ["ucb1", "gaussian-ts"])
def test_slot_agents_solve_fixed_slots(name: str) -> None:
    env_id = "vitucb/DigitsPaper-v0"
    scores = [regret(name, env_id, seed, 1_000) for seed in range(3)]
    randoms = [regret("random", env_id, seed, 1_000) for seed in range(3)]
    assert np.mean(scores) < np.mean(randoms) / 6


def test_slot_agents_cannot_solve_shuffled_slots() -> None:
    env_id = "vitucb/ImageArms-v0"
    assert regret("ucb1", env_id, 0, 1_000) > 0.85 * regret("random", env_id, 0, 1_000)


def test_oracle_has_no_regret() -> None:
    assert regret("oracle", "vitucb/ImageArms-v0", 0, 100) == 0.0


def test_oracle_needs_an_env_that_tells() -> None:
    env = gym.make("CartPole-v1")
    with pytest.raises(ValueError, match="oracle needs an environment with expected_rewards"):
        vitucb.make_agent("oracle", env)


def test_agents_need_discrete_actions() -> None:
    env = gym.make("Pendulum-v1")
    with pytest.raises(ValueError, match="is not Discrete"):
        vitucb.make_agent("ucb1", env)


def test_agents_of_one_seed_face_one_stream() -> None:
    def first_images(name: str) -> list[np.ndarray[Any, Any]]:
        env = gym.make("vitucb/ImageArms-v0", max_episode_steps=20)
        rounds = vitucb.run(env, vitucb.make_agent(name, env, seed=3), seed=3)
        return [r.observation["images"].copy() for r in rounds]

    for one, two in zip(first_images("random"), first_images("ucb1"), strict=True):
        np.testing.assert_array_equal(one, two)
