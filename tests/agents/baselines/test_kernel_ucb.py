"""The agent kernel-ucb: optimism on the expert kernel, in the loop of a real environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import vitucb
from tests.agents.two_digits import two_digits
from vitucb.agents.expert_agent import ExpertAgent


def digits(rounds: int = 10) -> gym.Env[Any, Any]:
    return gym.make("vitucb/ImageArms-v0", num_arms=4, max_episode_steps=rounds)


def made(env: gym.Env[Any, Any], **overrides: Any) -> ExpertAgent:
    agent = vitucb.make_agent("kernel-ucb", env, seed=0, **overrides)
    assert isinstance(agent, ExpertAgent)
    return agent


def test_it_solves_a_problem_of_two_digits() -> None:
    env = two_digits(40)
    rounds = list(vitucb.run(env, made(env), seed=0))
    assert sum(r.regret for r in rounds[15:]) < 2


def test_the_choice_is_the_largest_upper_bound_and_its_probability_is_told() -> None:
    env = digits()
    agent, other = made(env), made(env)
    for r in vitucb.run(env, other, seed=0):
        told = agent.probabilities(r.observation)
        decision = agent.select_action(r.observation)
        bound = decision.mean + decision.bonus
        assert bound[decision.action] == bound.max()
        assert told[decision.action] == decision.propensity
        assert decision.action == r.decision.action
        agent.update(r.observation, decision, r.reward)


def test_masked_arms_are_never_chosen() -> None:
    env = digits()
    agent = made(env)
    for r in list(vitucb.run(env, agent, seed=0)):
        obs = {"images": r.observation["images"], "action_mask": np.array([0, 1, 0, 1], np.int8)}
        assert agent.select_action(obs).action in (1, 3)


def test_a_restored_agent_continues_identically() -> None:
    env = digits(12)
    agent = made(env)
    rounds = list(vitucb.run(env, agent, seed=0))
    waiting = agent.select_action(rounds[0].observation)
    restored = made(env)
    restored.load_state_dict(agent.state_dict())
    for r in rounds:
        one, two = agent.select_action(r.observation), restored.select_action(r.observation)
        assert one.action == two.action
        np.testing.assert_array_equal(one.mean, two.mean)
        np.testing.assert_array_equal(one.bonus, two.bonus)
        agent.update(r.observation, one, r.reward)
        restored.update(r.observation, two, r.reward)
    assert agent.update(rounds[0].observation, waiting, 1.0) == restored.update(
        rounds[0].observation, waiting, 1.0
    )


def test_options_reach_the_bonus() -> None:
    env = digits(5)
    greedy = made(env, options={"coarse_alpha": 0.0, "fine_alpha": 0.0})
    assert all((r.decision.bonus == 0).all() for r in vitucb.run(env, greedy, seed=0))


def test_arms_that_share_an_image_are_refused_when_it_is_built() -> None:
    with pytest.raises(ValueError, match="an image per arm"):
        made(gym.make("vitucb/ImageContext-v0"))


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="aplha"):
        made(digits(), options={"aplha": 1.0})
