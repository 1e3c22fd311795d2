"""Reward links: losses, signs, Laplace means, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitucb.learning.links import BernoulliLink, GaussianLink


def test_gaussian_link_has_reward_units() -> None:
    link = GaussianLink()
    for reward in (1.0, 5.0):
        link.add(reward)
    np.testing.assert_allclose(link.decision_scale(np.array([0.0, 1.0])), [3.0, 5.0])
    loss = link.loss(torch.tensor([1.0, 0.0]), torch.tensor([5.0, 1.0]))
    assert float(loss) == pytest.approx(0.5)


def test_bernoulli_loss_falls_with_the_score_of_a_success() -> None:
    # A published peer feeds {0, 1} to a loss for {-1, 1}: failures then carry no gradient.
    score = torch.zeros(2, requires_grad=True)
    torch.autograd.backward(BernoulliLink().loss(score, torch.tensor([1.0, 0.0])))
    assert score.grad is not None
    np.testing.assert_allclose(score.grad.numpy(), [-0.25, 0.25])


def test_bernoulli_mean_is_the_expected_sigmoid() -> None:
    link, rng = BernoulliLink(), np.random.default_rng(0)
    for mean, width in ((0.5, 0.3), (-1.5, 1.0), (2.0, 2.0)):
        draws = 1 / (1 + np.exp(-(mean + width * rng.standard_normal(200_000))))
        found = link.reward(np.array([mean]), np.array([width]))[0]
        assert found == pytest.approx(draws.mean(), abs=0.012)


def test_bernoulli_weight_is_the_curvature() -> None:
    np.testing.assert_allclose(BernoulliLink().weight(np.array([0.0, 60.0])), [0.25, 1e-3])


@pytest.mark.parametrize("reward", [-0.1, 1.5, float("nan")])
def test_bernoulli_refuses_rewards_outside_the_unit_interval(reward: float) -> None:
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        BernoulliLink().add(reward)


def test_gaussian_link_restores() -> None:
    link, other = GaussianLink(), GaussianLink()
    for reward in (0.0, 2.0, 7.0):
        link.add(reward)
        link.add_error(reward - 1)
    other.load_state_dict(link.state_dict())
    assert (other.mean, other.std, other.width_scale) == (link.mean, link.std, link.width_scale)
