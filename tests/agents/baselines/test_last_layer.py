"""neural-linear and full-finetune: the posterior, and features that follow the network."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import vitucb
from tests.agents.two_digits import two_digits
from vitucb.agents.baselines import last_layer
from vitucb.agents.baselines.full_finetune import FullFinetune
from vitucb.agents.baselines.last_layer import LastLayerAgent
from vitucb.agents.baselines.neural_linear import NeuralLinear
from vitucb.models.lora import lora_pairs
from vitucb.types import Round

FEW = {"training": {"batch_size": 4}, "lora": {"rank": 1}}


def played(name: str, rounds: int, **overrides: Any) -> tuple[LastLayerAgent, list[Round]]:
    env = gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=rounds)
    agent = vitucb.make_agent(name, env, seed=0, **(FEW | overrides))
    assert isinstance(agent, LastLayerAgent)
    return agent, list(vitucb.run(env, agent, seed=0))


def rows(agent: LastLayerAgent, rounds: list[Round]) -> Tensor:
    """Features of the choices under the agent's network of now."""
    images = np.stack([r.observation["images"][r.decision.action] for r in rounds])
    outputs = torch.zeros(len(images), dtype=torch.int64)
    return agent._encode(list(torch.as_tensor(images)), outputs)[1]


def assert_counts_once(agent: LastLayerAgent, phi: Tensor, ridge: float) -> None:
    A = ridge * torch.eye(phi.shape[1], dtype=torch.float64) + phi.T @ phi
    query = torch.randn(4, phi.shape[1], generator=torch.Generator().manual_seed(0)).double()
    expected = (query * torch.linalg.solve(A, query.T).T).sum(dim=1)
    torch.testing.assert_close(agent._covariance.quad_form(query), expected, rtol=1e-6, atol=0)


def test_posterior_equals_the_normal_inverse_gamma_closed_form() -> None:
    agent, rounds = played("neural-linear", 25, options={"train": "none", "a0": 3.0, "b0": 2.0})
    assert isinstance(agent, NeuralLinear)
    phi = torch.stack([r.decision.phi for r in rounds]).numpy()
    y = np.array([r.reward for r in rounds])
    precision = 0.25 * np.eye(phi.shape[1]) + phi.T @ phi
    mu = np.linalg.solve(precision, phi.T @ y)
    shape, scale = agent.noise_posterior
    assert shape == 3.0 + 25 / 2
    assert scale == pytest.approx(2.0 + (y @ y - mu @ precision @ mu) / 2)
    obs = rounds[0].observation
    mean, query = agent._score(obs)
    np.testing.assert_allclose(mean, query.numpy() @ mu)


def test_prior_of_the_noise_is_in_the_unit_of_the_rewards() -> None:
    def actions(unit: float) -> list[int]:
        env = gym.wrappers.TransformReward(two_digits(25), lambda reward: unit * float(reward))
        agent = vitucb.make_agent("neural-linear", env, seed=0, **options)
        return [r.decision.action for r in vitucb.run(env, agent, seed=0)]

    options: dict[str, Any] = {"options": {"train": "none"}, "policy": {"draws": 20}}
    assert actions(1.0) == actions(1e-3) == actions(1e-6)


def test_widths_share_the_drawn_noise_deviation() -> None:
    agent, rounds = played("neural-linear", 12, options={"train": "none"})
    _, phi = agent._score(rounds[-1].observation)
    unscaled = agent._covariance.width(phi).numpy()
    draws = [agent.select_action(rounds[-1].observation).width[0] / unscaled[0] for _ in range(3)]
    assert len({round(float(d), 6) for d in draws}) == 3


@pytest.mark.parametrize(
    ("name", "rounds", "ridge", "options"),
    [
        ("neural-linear", 20, 0.25, {"options": {"refresh_every": 10, "steps": 3}}),
        ("full-finetune", 16, 2.0, {"covariance": {"ridge": 2.0}}),
    ],
)
def test_after_a_rebuild_every_choice_counts_once_with_todays_features(
    name: str, rounds: int, ridge: float, options: dict[str, Any]
) -> None:
    agent, history = played(name, rounds, **options)
    fresh = rows(agent, history)
    stale = torch.stack([r.decision.phi for r in history])
    assert float((fresh - stale).norm()) > 1e-4  # training has moved them
    assert_counts_once(agent, fresh, ridge)


def test_regression_is_rebuilt_with_the_rows() -> None:
    agent, history = played("neural-linear", 20, options={"refresh_every": 10, "steps": 3})
    assert isinstance(agent, NeuralLinear)
    phi, rewards = rows(agent, history), torch.tensor([r.reward for r in history]).double()
    torch.testing.assert_close(agent._response, rewards @ phi, rtol=1e-6, atol=1e-8)
    assert agent._count == 20


def test_choices_awaiting_their_reward_survive_a_rebuild() -> None:
    agent, history = played("full-finetune", 14, covariance={"ridge": 2.0})
    obs = history[0].observation
    waiting = [agent.select_action(obs) for _ in range(4)]
    for decision in waiting[:2]:
        agent.update(obs, decision, 1.0)  # the sixteenth reward: a rebuild
    images = [r.observation["images"][r.decision.action] for r in history]
    images += [obs["images"][decision.action] for decision in waiting]
    outputs = torch.zeros(len(images), dtype=torch.int64)
    fresh = agent._encode(list(torch.as_tensor(np.stack(images))), outputs)[1]
    assert_counts_once(agent, fresh, 2.0)
    assert set(agent._pending) == {decision.round for decision in waiting[2:]}


@pytest.mark.parametrize("is_lost_before", [True, False])
def test_a_reward_that_was_no_longer_awaited_is_of_a_row_in_the_covariance(
    is_lost_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_layer, "_MAX_PENDING", 3)
    options = {"options": {"refresh_every": 5, "steps": 2, "ridge": 0.25}}
    agent, rounds = played("neural-linear", 4, **options)
    assert isinstance(agent, NeuralLinear)
    more = [r.observation for r in rounds] + [rounds[0].observation]
    before = 5 if is_lost_before else 3
    waiting = [(obs, agent.select_action(obs), 1.0) for obs in more[:before]]
    agent.update(*waiting.pop())  # the fifth reward: all rows are made anew
    waiting += [(obs, agent.select_action(obs), 1.0) for obs in more[before:]]
    assert len(waiting) > len(agent._pending)
    for obs, decision, reward in waiting:
        agent.update(obs, dataclasses.replace(decision, phi=None), reward)  # as JSON leaves it
    images, outputs, rewards = agent._history.sample(100)
    phi = agent._encode(images, outputs)[1]
    assert len(phi) == agent._covariance.count == agent._rounds
    assert_counts_once(agent, phi, 0.25)
    torch.testing.assert_close(agent._response, rewards @ phi, rtol=0, atol=1e-5)


def test_full_finetune_trains_every_weight_and_rebuild_can_be_left_out() -> None:
    training = {"batch_size": 4, "rebuild": "none"}
    agent, history = played("full-finetune", 16, training=training, covariance={"ridge": 2.0})
    assert isinstance(agent, FullFinetune)
    total = sum(p.numel() for p in agent._model.parameters())
    assert agent.parameters["trainable_parameters"] == total
    stale = torch.stack([r.decision.phi for r in history])
    assert_counts_once(agent, stale, 2.0)


def test_adapters_are_those_configured() -> None:
    lora = {"rank": 4, "alpha": 8.0, "use_rslora": True, "init": "orthogonal"}
    agent, _ = played("neural-linear", 1, lora=lora)
    pair = lora_pairs(agent._model)[0]
    assert pair.scaling == 4.0
    assert float(pair.B.detach().abs().max()) > 0


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("full-finetune", {"optimizer": "lora-rite"}, "'lora-rite': agent 'full-finetune' trains"),
        ("full-finetune", {"options": {"train": "all"}}, "agent.options train: agent"),
        ("neural-linear", {"options": {"train": "head"}}, "agent.options.train: expected one of"),
        ("neural-linear", {"options": {"a0": 0.0}}, "agent.options.a0 0.0 must be positive"),
    ],
)
def test_bad_setting_is_named(name: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        played(name, 1, **overrides)
