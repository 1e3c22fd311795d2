"""Agents that never look: closed forms, masks, and the two tasks they are gates for."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import vitucb
from vitucb.agents.baselines.context_free import (
    KLUCB,
    UCB1,
    BetaThompson,
    GaussianThompson,
    RandomAgent,
    SlotStatistics,
    kl_upper_bound,
)
from vitucb.agents.baselines.references import mean_rewards_ahead
from vitucb.policies import gaussian_win_probabilities
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


@pytest.mark.parametrize("kind", [RandomAgent, UCB1, GaussianThompson, BetaThompson, KLUCB])
def test_masked_slots_are_never_chosen(kind: type[UCB1]) -> None:
    agent = kind(4, np.random.default_rng(0))
    for t in range(60):
        mask = [t % 2, 1, 0, (t + 1) % 2]
        decision = agent.select_action(blank(4, mask))
        assert mask[decision.action] == 1
        assert 0 < decision.propensity <= 1
        agent.update(blank(4, mask), decision, decision.action / 4)


@pytest.mark.parametrize("name", ["ucb1", "gaussian-ts"])
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


@pytest.mark.parametrize("name", ["beta-ts", "kl-ucb"])
def test_agents_for_unit_rewards_solve_fixed_slots(name: str) -> None:
    options = {"shuffle_slots": False, "num_arms": 10}
    score = np.mean([regret(name, "vitucb/ImageArms-v0", s, 1_000, **options) for s in range(2)])
    assert score < 0.35 * regret("random", "vitucb/ImageArms-v0", 0, 1_000, **options)


@pytest.mark.parametrize("kind", [BetaThompson, KLUCB])
def test_rewards_outside_the_unit_interval_are_refused(kind: type[UCB1]) -> None:
    agent = kind(2, np.random.default_rng(0))
    decision = agent.select_action(blank(2))
    with pytest.raises(ValueError, match=r"reward 3.0 is not in \[0, 1\]"):
        agent.update(blank(2), decision, 3.0)


def test_beta_propensity_is_near_the_closed_form() -> None:
    agent = BetaThompson(2, np.random.default_rng(0))
    agent.slots.add(0, 1.0)
    agent.slots.add(1, 0.0)
    decision = agent.select_action(blank(2))
    # P(Beta(2, 1) > Beta(1, 2)) = 5/6.
    expected = [5 / 6, 1 / 6][decision.action]
    assert decision.propensity == pytest.approx(expected, abs=0.05)


def test_gaussian_propensity_is_exact() -> None:
    agent = GaussianThompson(2, np.random.default_rng(0))
    for slot, reward in [(0, 1.0), (0, 2.0), (1, 0.0), (1, 1.0), (1, 2.0)]:
        agent.slots.chosen[slot] += 1
        agent.slots.add(slot, reward)
    decision = agent.select_action(blank(2))
    expected = gaussian_win_probabilities(agent.slots.means, decision.width)
    assert decision.propensity == expected[decision.action]


def test_kl_bound_meets_its_level() -> None:
    mean, level = np.array([0.0, 0.3, 0.5, 1.0]), np.full(4, 0.2)
    bound = kl_upper_bound(mean, level)
    np.testing.assert_allclose(bound[0], 1 - np.exp(-0.2))
    inner, q = mean[1:3], bound[1:3]
    kl = inner * np.log(inner / q) + (1 - inner) * np.log((1 - inner) / (1 - q))
    np.testing.assert_allclose(kl, 0.2, rtol=1e-9)
    assert bound[3] == pytest.approx(1.0)


def test_rewards_on_their_way_count_as_choices() -> None:
    agent = UCB1(3, np.random.default_rng(0))
    waiting = [agent.select_action(blank(3)) for _ in range(6)]
    assert sorted(d.action for d in waiting) == [0, 0, 1, 1, 2, 2]
    for decision in reversed(waiting):
        agent.update(blank(3), decision, 1.0)
    np.testing.assert_array_equal(agent.slots.pulls, agent.slots.chosen)


def test_best_fixed_arm_needs_no_images_where_slots_are_fixed() -> None:
    assert regret("best-fixed-arm", "vitucb/DigitsPaper-v0", 0, 50) == 0.0


def test_best_fixed_arm_is_best_in_hindsight() -> None:
    env = gym.make("vitucb/ImageArms-v0", num_arms=4, max_episode_steps=60)
    agent = vitucb.make_agent("best-fixed-arm", env, seed=0)
    rounds = list(vitucb.run(env, agent, seed=0))
    totals = sum(np.asarray(r.expected_rewards) for r in rounds)
    earned = sum(r.expected_reward for r in rounds)
    assert earned == pytest.approx(np.max(totals))
    assert len({r.decision.action for r in rounds}) == 1


def test_looking_ahead_leaves_the_environment_alone() -> None:
    env = gym.make("vitucb/ImageArms-v0", num_arms=4, max_episode_steps=20)
    obs, _ = env.reset(seed=3)
    means = mean_rewards_ahead(env, obs)
    assert means.shape == (4,)
    twin = gym.make("vitucb/ImageArms-v0", num_arms=4, max_episode_steps=20)
    twin.reset(seed=3)
    for _ in range(20):
        one, two = env.step(1), twin.step(1)
        np.testing.assert_array_equal(one[0]["images"], two[0]["images"])
        assert one[1] == two[1]


def test_best_fixed_arm_needs_a_horizon() -> None:
    env = gym.make("vitucb/ImageArms-v0", max_episode_steps=-1)
    with pytest.raises(ValueError, match="best-fixed-arm needs a horizon"):
        vitucb.make_agent("best-fixed-arm", env)


def test_options_of_agents_that_have_none_are_refused() -> None:
    env = gym.make("vitucb/ImageArms-v0")
    with pytest.raises(ValueError, match=r"agent.options hidden: agent 'ucb1' has none"):
        vitucb.make_agent("ucb1", env, options={"hidden": 3})


def test_oracle_has_no_regret() -> None:
    assert regret("oracle", "vitucb/ImageArms-v0", 0, 100) == 0.0


def test_oracle_needs_an_env_that_tells() -> None:
    telling = gym.make("vitucb/ImageArms-v0")
    env: gym.Env[Any, Any] = gym.Env()
    env.observation_space, env.action_space = telling.observation_space, telling.action_space
    with pytest.raises(ValueError, match="oracle needs an environment with expected_rewards"):
        vitucb.make_agent("oracle", env)


def test_agents_need_discrete_actions() -> None:
    env = gym.make("vitucb/ImageArms-v0")
    env.action_space = gym.spaces.Box(-1, 1)
    with pytest.raises(ValueError, match="actions must be a Discrete space"):
        vitucb.make_agent("ucb1", env)


def test_agents_need_images() -> None:
    with pytest.raises(ValueError, match="observations must be a Dict space with images"):
        vitucb.make_agent("ucb1", gym.make("CartPole-v1"))


def test_agents_of_one_seed_face_one_stream() -> None:
    def first_images(name: str) -> list[np.ndarray[Any, Any]]:
        env = gym.make("vitucb/ImageArms-v0", max_episode_steps=20)
        rounds = vitucb.run(env, vitucb.make_agent(name, env, seed=3), seed=3)
        return [r.observation["images"].copy() for r in rounds]

    for one, two in zip(first_images("random"), first_images("ucb1"), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_level_costs_the_noise_no_digits() -> None:
    rewards = np.random.default_rng(0).standard_normal(40)
    plain, high = SlotStatistics(2), SlotStatistics(2)
    for t, reward in enumerate(rewards.tolist()):
        plain.add(t % 2, reward)
        high.add(t % 2, 1e8 + reward)
    assert high.noise == pytest.approx(plain.noise, rel=1e-6)


@pytest.mark.parametrize("name", ["ucb1", "gaussian-ts"])
def test_a_slot_whose_first_reward_was_lost_is_tried_again_at_any_level(name: str) -> None:
    env = gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=300)
    agent = vitucb.make_agent(name, env, seed=0)
    obs, _ = env.reset(seed=0)
    rng, chosen = np.random.default_rng(0), []
    for _ in range(300):
        decision = agent.select_action(obs)
        chosen.append(decision.action)
        if decision.action != 2 or len(chosen) > 3:
            reward = 100 + 5 * (decision.action == 2) + rng.standard_normal()
            agent.update(obs, decision, float(reward))
    assert chosen.count(2) > 250


@pytest.mark.parametrize("name", ["ucb1", "kl-ucb", "gaussian-ts", "beta-ts", "random"])
def test_another_number_of_slots_is_refused(name: str) -> None:
    env = gym.make("vitucb/ImageArms-v0", num_arms=4, max_episode_steps=4)
    agent = vitucb.make_agent(name, env, seed=0)
    obs, _ = env.reset(seed=0)
    for mask in (np.ones(3, np.int8), np.ones(5, np.int8)):
        with pytest.raises(ValueError, match=f"has {len(mask)} arms, and the agent knows 4 by"):
            agent.select_action({**obs, "action_mask": mask})
