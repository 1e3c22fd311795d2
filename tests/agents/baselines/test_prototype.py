"""The prototype's decision rule, and each quirk against what it replaces."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import vitucb
from vitucb.agents.baselines.prototype import DiagonalRecursion, Prototype
from vitucb.models.lora import lora_pairs
from vitucb.types import Round


def make(seed: int = 0, arms: int = 3, rounds: int = 5, **options: Any) -> tuple[Prototype, Any]:
    env = gym.make("vitucb/ImageArms-v0", num_arms=arms, max_episode_steps=rounds)
    defaults = {"rank": 1, "replay": 4}
    agent = vitucb.make_agent("prototype", env, seed=seed, options=defaults | options)
    assert isinstance(agent, Prototype)
    return agent, env


def played(rounds: int = 5, **options: Any) -> tuple[Prototype, list[Round]]:
    agent, env = make(rounds=rounds, **options)
    return agent, list(vitucb.run(env, agent, seed=0))


def test_all_blocks_are_trained_and_the_last_is_tracked() -> None:
    agent, _ = make(rank=2)
    pairs = lora_pairs(agent._model)
    sizes = [pair.A.numel() + pair.B.numel() for pair in pairs]
    head = agent._model.head.in_features + 1
    assert len(pairs) == 4
    assert agent.parameters["trainable_parameters"] == sum(sizes) + head
    assert agent.parameters["tracked_features"] == sizes[-1] + head
    assert ".3." in agent._pairs[0].name
    everything, _ = make(tracked="all", rank=2, covariance="diagonal")
    assert everything.parameters["tracked_features"] == sum(sizes) + head


def test_settings_are_the_prototypes() -> None:
    env = gym.make("vitucb/ImageArms-v0", max_episode_steps=3)
    agent = vitucb.make_agent("prototype", env, options={"covariance": "diagonal"})
    assert isinstance(agent, Prototype)
    pair = agent._pairs[0]
    assert pair.A.shape[0] == 20
    assert pair.scaling == pytest.approx(24 / 20)
    assert agent._replay.maxlen == 50
    assert agent._optimizer.param_groups[0]["lr"] == 1e-4
    *_, last = vitucb.run(env, agent, seed=0)
    np.testing.assert_allclose(last.decision.bonus, 85 * last.decision.width)


@pytest.mark.parametrize(("start", "square"), [("ridge", 4.0), ("inverse", 0.25)])
def test_first_width_shows_where_the_inverse_starts(start: str, square: float) -> None:
    _, rounds = played(1, start=start)
    decision = rounds[0].decision
    norm = float(decision.phi.double().norm())
    assert decision.width[decision.action] == pytest.approx(norm * math.sqrt(square))


def test_features_are_gradients_over_root_p_and_only_scaled_by_it() -> None:
    _, scaled = played(1)
    agent, plain = played(1, scale="none")
    root = math.sqrt(agent.parameters["tracked_features"])
    torch.testing.assert_close(scaled[0].decision.phi * root, plain[0].decision.phi)
    # The last coordinate is the gradient in the bias of the head.
    assert float(plain[0].decision.phi[-1]) == 1.0


def test_one_backward_for_all_arms_gives_the_same_numbers() -> None:
    _, per_arm = played()
    _, batched = played(gradients="batched")
    for one, two in zip(per_arm, batched, strict=True):
        assert one.decision.action == two.decision.action
        np.testing.assert_allclose(one.decision.mean, two.decision.mean, atol=1e-5)
        np.testing.assert_allclose(one.decision.width, two.decision.width, rtol=1e-4)


def test_rows_give_the_same_numbers_as_the_dense_inverse() -> None:
    _, dense = played()
    _, rows = played(covariance="exact")
    for one, two in zip(dense, rows, strict=True):
        np.testing.assert_allclose(one.decision.width, two.decision.width, rtol=1e-4)


def test_rows_stay_as_they_were_taken() -> None:
    agent, rounds = played(start="inverse")
    phi = torch.stack([r.decision.phi for r in rounds]).double()
    A = 4.0 * torch.eye(phi.shape[1], dtype=torch.float64) + phi.T @ phi
    expected = (phi * torch.linalg.solve(A, phi.T).T).sum(dim=1)
    torch.testing.assert_close(agent._covariance.quad_form(phi), expected)


def test_replay_holds_the_newest_only() -> None:
    agent, rounds = played(7)
    assert [reward for _, reward in agent._replay] == [r.reward for r in rounds[-4:]]
    assert agent._optimizer.state_dict()["state"][0]["step"] == 7


def test_diagonal_recursion_equals_its_formula() -> None:
    covariance = DiagonalRecursion(3, ridge=0.25)
    d = np.full(3, 4.0)
    for row in np.random.default_rng(0).normal(size=(5, 3)):
        covariance.update(torch.tensor(row))
        d = d - d**2 * row**2 / (1 + (d * row**2).sum())
    query = np.array([1.0, -2.0, 0.5])
    assert float(covariance.quad_form(torch.tensor(query))) == pytest.approx((d * query**2).sum())
