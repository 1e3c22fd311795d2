"""The frozen linear bandit equals ridge regression, and its width the closed form."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import vitucb
from vitucb.agents.linear import LinearAgent
from vitucb.types import Observation, Round

RIDGE = 0.05


def played(rounds: int, **overrides: Any) -> tuple[LinearAgent, list[Round]]:
    env = gym.make("vitucb/ImageArms-v0", num_arms=4, max_episode_steps=rounds)
    agent = vitucb.make_agent("lin-ucb", env, seed=0, **({"head_ridge": RIDGE} | overrides))
    assert isinstance(agent, LinearAgent)
    return agent, list(vitucb.run(env, agent, seed=0))


def features(agent: LinearAgent, obs: Observation) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = agent._features(obs).numpy()
    return array


def test_mean_and_width_equal_the_closed_forms() -> None:
    agent, rounds = played(40)
    phi = np.stack([r.decision.phi.numpy() for r in rounds[:-1]])
    rewards = np.array([r.reward for r in rounds[:-1]])
    gram = phi.T @ phi + RIDGE * np.eye(phi.shape[1])
    last = rounds[-1]
    query = features(agent, last.observation)
    np.testing.assert_allclose(last.decision.mean, query @ np.linalg.solve(gram, phi.T @ rewards))
    quad = (query * np.linalg.solve(gram, query.T).T).sum(axis=1)
    ratio = last.decision.width / np.sqrt(quad)
    np.testing.assert_allclose(ratio, ratio[0])


def test_first_width_is_the_norm_over_the_root_of_the_ridge() -> None:
    agent, rounds = played(1)
    norm = np.linalg.norm(features(agent, rounds[0].observation), axis=1)
    np.testing.assert_allclose(rounds[0].decision.width, norm / np.sqrt(RIDGE))


def test_permuting_the_arms_permutes_the_choice() -> None:
    agent, rounds = played(30)
    obs = rounds[-1].observation
    order = np.array([2, 0, 3, 1])
    permuted = {"images": obs["images"][order], "action_mask": obs["action_mask"]}
    state = agent.state_dict()
    plain = agent.select_action(obs)
    agent.load_state_dict(state)
    assert order[agent.select_action(permuted).action] == plain.action


def test_masked_arms_are_never_chosen() -> None:
    agent, rounds = played(5)
    for r in rounds:
        mask = np.array([0, 1, 0, 1], np.int8)
        obs = {"images": r.observation["images"], "action_mask": mask}
        assert mask[agent.select_action(obs).action] == 1


def test_greedy_has_no_bonus() -> None:
    env = gym.make("vitucb/ImageArms-v0", num_arms=4, max_episode_steps=5)
    agent = vitucb.make_agent("greedy", env, seed=0)
    assert all((r.decision.bonus == 0).all() for r in vitucb.run(env, agent, seed=0))


def test_restored_agent_continues_identically() -> None:
    agent, rounds = played(20)
    restored, _ = played(3)
    restored.load_state_dict(agent.state_dict())
    for r in rounds[:6]:
        one, two = agent.select_action(r.observation), restored.select_action(r.observation)
        assert one.action == two.action
        torch.testing.assert_close(one.mean, two.mean, rtol=0, atol=0)
        agent.update(r.observation, one, r.reward)
        restored.update(r.observation, two, r.reward)


def test_ridge_must_be_positive() -> None:
    with pytest.raises(ValueError, match="ridge"):
        played(1, head_ridge=0.0)
