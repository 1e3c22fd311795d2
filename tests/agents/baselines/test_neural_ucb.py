"""Networks that start at zero, their gradients, and the loss and covariance of NeuralUCB."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import vitucb
from vitucb.agents.baselines.networks import SmallCNN, SymmetricNetwork, TwoLayer
from vitucb.agents.baselines.neural_ucb import NeuralUCB
from vitucb.agents.baselines.tensor_replay import TensorReplay
from vitucb.types import Round


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit_rows(n: int, d: int, seed: int = 1) -> Tensor:
    rows = torch.randn(n, d, generator=generator(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def network(kind: str, outputs: int = 1) -> tuple[SymmetricNetwork, Tensor]:
    if kind == "mlp":
        return SymmetricNetwork(TwoLayer(5, 8, outputs, generator())), unit_rows(4, 5)
    pixels = torch.randn(4, 3, 16, 16, generator=generator(2))
    return SymmetricNetwork(SmallCNN(8, outputs, generator())), pixels


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_scores_start_at_zero_and_gradients_do_not(kind: str) -> None:
    net, x = network(kind)
    scores, gradients = net.scores_and_gradients(x, torch.zeros(4, dtype=torch.int64))
    assert (scores == 0).all()
    assert (gradients.norm(dim=1) > 0).all()


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("outputs", [1, 4])
def test_gradients_equal_autograd_arm_by_arm(kind: str, outputs: int) -> None:
    net, x = network(kind, outputs)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(3)))
    chosen = torch.arange(4) % outputs
    scores, gradients = net.scores_and_gradients(x, chosen)
    assert gradients.shape == (4, net.num_parameters)
    for i in range(4):
        score = net(x[i : i + 1])[0, chosen[i]]
        exact = torch.autograd.grad(score, list(net.parameters()))
        torch.testing.assert_close(gradients[i], torch.cat([g.flatten() for g in exact]))
        torch.testing.assert_close(scores[i], score.detach())


def test_kernel_equals_that_of_the_papers_doubled_network() -> None:
    net, z = network("mlp")
    one = net.plus
    assert isinstance(one, TwoLayer)
    x = torch.cat([z, z], dim=1) / math.sqrt(2)
    # Zhou et al. 2020, section 4: W_1 = diag(W, W) with N(0, 4 / m), W_2 = (w, -w), N(0, 2 / m).
    zero = torch.zeros_like(one.hidden)
    blocks = [torch.cat([one.hidden, zero], dim=1), torch.cat([zero, one.hidden], dim=1)]
    hidden = torch.cat(blocks).detach() * math.sqrt(2)
    output = torch.cat([one.output, -one.output], dim=1).detach()
    hidden.requires_grad_(True)
    output.requires_grad_(True)
    rows = []
    for row in x:
        score = math.sqrt(8) * (output @ torch.relu(hidden @ row))[0]
        assert float(score.detach()) == pytest.approx(0.0, abs=1e-6)
        gradients = torch.autograd.grad(score, [hidden, output])
        rows.append(torch.cat([g.flatten() for g in gradients]))
    papers = torch.stack(rows)
    _, ours = net.scores_and_gradients(z, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(ours @ ours.T, papers @ papers.T)


def test_history_past_its_capacity_is_a_sample_of_all() -> None:
    history = TensorReplay(20, generator())
    for i in range(200):
        history.add(torch.tensor([float(i)]), i % 3, float(i))
    held, outputs, rewards = history.sample(1_000)
    x = torch.stack(held)
    assert len(x) == len(set(rewards.tolist())) == 20
    assert history.seen == 200
    torch.testing.assert_close(x[:, 0].double(), rewards)
    torch.testing.assert_close(outputs, rewards.long() % 3)
    assert 60 < rewards.mean() < 140
    assert len(history.sample(7)[0]) == 7


def test_history_needs_room() -> None:
    with pytest.raises(ValueError, match="replay_capacity 0 must be at least 1"):
        TensorReplay(0, generator())


def played(rounds: int, **overrides: Any) -> tuple[NeuralUCB, list[Round]]:
    env = gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=rounds)
    settings = {"options": {"hidden": 8, "steps": 2}} | overrides
    agent = vitucb.make_agent("neural-ucb", env, seed=0, **settings)
    assert isinstance(agent, NeuralUCB)
    return agent, list(vitucb.run(env, agent, seed=0))


def test_first_round_is_a_width_over_the_root_of_the_ridge_around_zero() -> None:
    agent, rounds = played(1, covariance={"ridge": 4.0})
    first = rounds[0].decision
    np.testing.assert_array_equal(first.mean, np.zeros(3))
    norm = float(first.phi.double().norm())
    assert first.width[first.action] == pytest.approx(norm / 2)
    assert agent.parameters["tracked_features"] == agent.parameters["trainable_parameters"]


def test_covariance_is_the_sum_over_choices_of_their_gradients() -> None:
    agent, rounds = played(12, covariance={"ridge": 2.0, "name": "dense"})
    phi = torch.stack([r.decision.phi for r in rounds]).double()
    A = 2.0 * torch.eye(phi.shape[1], dtype=torch.float64) + phi.T @ phi
    query = torch.randn(3, phi.shape[1], generator=generator(), dtype=torch.float64)
    expected = (query * torch.linalg.solve(A, query.T).T).sum(dim=1)
    torch.testing.assert_close(agent._covariance.quad_form(query), expected)


def test_strong_ridge_holds_the_network_at_its_start() -> None:
    def distance(ridge: float) -> float:
        agent, _ = played(12, covariance={"ridge": ridge, "name": "diagonal"})
        pairs = zip(agent._network.parameters(), agent._initial, strict=True)
        return math.sqrt(sum(float((p.detach() - start).square().sum()) for p, start in pairs))

    assert distance(1e4) < 0.5 * distance(1e-4)


def test_units_of_the_reward_do_not_change_the_choices() -> None:
    def actions(unit: float) -> list[int]:
        means = list(unit * np.linspace(0.0, 1.0, 10))
        env = gym.make(
            "vitucb/ImageArms-v0",
            num_arms=3,
            reward="gaussian",
            class_rewards=means,
            noise_std=0.0,
            max_episode_steps=10,
        )
        options = {"hidden": 8, "steps": 2}
        agent = vitucb.make_agent("neural-ucb", env, seed=0, options=options, policy="greedy")
        return [r.decision.action for r in vitucb.run(env, agent, seed=0)]

    assert actions(1.0) == actions(1024.0)
