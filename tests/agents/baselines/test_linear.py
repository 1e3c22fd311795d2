"""The frozen linear bandit equals ridge regression, and its width the closed form."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import vitucb
from vitucb.agents.baselines.frozen_features import FrozenFeatures
from vitucb.agents.baselines.linear import LinearAgent
from vitucb.models.preprocess import Preprocess
from vitucb.policies import Choice
from vitucb.types import Decision, Observation, Round

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


def test_a_decision_that_was_json_is_learnt_as_it_was() -> None:
    one, two = played(5)[0], played(5)[0]
    obs = played(1)[1][0].observation
    decision = one.select_action(obs)
    one.update(obs, decision, 1.0)
    two.update(obs, Decision.from_dict(two.select_action(obs).to_dict()), 1.0)
    mean, again = one.select_action(obs).mean, two.select_action(obs).mean
    np.testing.assert_allclose(again, mean, rtol=1e-12)


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


@pytest.mark.parametrize(
    ("name", "policy"),
    [("lin-ucb", "ucb"), ("lin-ucb", "boltzmann"), ("lin-ucb", "igw"), ("lin-ts", "thompson")],
)
def test_told_probabilities_are_those_of_a_discounted_choice_and_change_nothing(
    name: str, policy: str
) -> None:
    env = gym.make("vitucb/ImageArms-v0", num_arms=4, max_episode_steps=12)
    overrides: dict[str, Any] = {"policy": policy, "training": {"discount": 0.8}}
    asked, other = (vitucb.make_agent(name, env, seed=0, **overrides) for _ in range(2))
    assert isinstance(asked, LinearAgent)
    for r in vitucb.run(env, other, seed=0):
        told = asked.probabilities(r.observation)
        decision = asked.select_action(r.observation)
        assert told[decision.action] == decision.propensity
        assert decision.action == r.decision.action
        np.testing.assert_array_equal(decision.width, r.decision.width)
        asked.update(r.observation, decision, r.reward)


def test_a_policy_that_tells_no_probabilities_leaves_a_discounted_agent_as_it_was() -> None:
    agent, rounds = played(5, training={"discount": 0.8})
    agent._policy = lambda *_: Choice(0, 1.0, np.zeros(4))
    before = agent.state_dict()
    with pytest.raises(ValueError, match="tells no probabilities"):
        agent.probabilities(rounds[-1].observation)
    assert torch.equal(agent.state_dict()["response"], before["response"])


def test_ridge_must_be_positive() -> None:
    with pytest.raises(ValueError, match="ridge"):
        played(1, head_ridge=0.0)


class Counted(torch.nn.Module):
    """A backbone that counts the batches it is given."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(
            torch.randn(8, 48, generator=torch.Generator().manual_seed(0))
        )
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (n, 8) of images (n, 3, 4, 4)."""
        self.batches.append(len(x))
        return x.flatten(1) @ self.weight.T


def frozen(arms: int = 4, limit_mib: int = 1) -> tuple[FrozenFeatures, Counted]:
    backbone = Counted()
    preprocess = Preprocess((4, 4), (0.5,) * 3, (0.5,) * 3)
    made = FrozenFeatures(backbone, preprocess, limit_mib=limit_mib, arms=arms)
    backbone.batches.clear()
    return made, backbone


def pictures(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)


def test_an_image_seen_before_does_not_go_through_the_backbone_again() -> None:
    features, backbone = frozen()
    images = pictures(6)
    first = features(images[:4])
    assert torch.equal(features(images[[2, 0, 2, 1]]), first[[2, 0, 2, 1]])
    assert backbone.batches == [4]
    features(images)
    assert backbone.batches == [4, 4]


def test_features_have_the_same_bits_whether_images_are_held_or_not() -> None:
    images = pictures(9)
    (held, _), (never, backbone) = frozen(), frozen(limit_mib=0)
    for order in ([0, 1, 2, 3], [3, 4, 0], [8, 7, 6, 5, 0], [2]):
        assert torch.equal(held(images[order]), never(images[order]))
    assert backbone.batches == [4, 4, 4, 4, 4]


def test_a_negative_bound_of_memory_is_refused() -> None:
    with pytest.raises(ValueError, match=r"agent.prefix_cache_mib -1 must be at least 0"):
        played(1, prefix_cache_mib=-1)


def test_memory_for_features_changes_no_decision() -> None:
    with_memory, without = (played(30, prefix_cache_mib=limit)[1] for limit in (256, 0))
    for one, two in zip(with_memory, without, strict=True):
        np.testing.assert_array_equal(one.decision.mean, two.decision.mean)
        np.testing.assert_array_equal(one.decision.width, two.decision.width)
