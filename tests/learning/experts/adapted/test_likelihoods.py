"""Losses of rewards on one arm: closed forms, gradients by differences, units."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vitucb.learning.experts.adapted.likelihoods import (
    LIKELIHOODS,
    LogisticLikelihood,
    SoftmaxLikelihood,
    SquaredLikelihood,
    softmax_bandit_loss,
)

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def draws(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    actions = torch.randint(0, 4, (6,), generator=generator)
    return outputs, actions, torch.tensor([0.0, 1.0, 0.3, 1.0, 0.0, 0.5], dtype=torch.float64)


def squared() -> Loss:
    likelihood = SquaredLikelihood()
    for reward in (3.0, 5.0, 10.0):
        likelihood.add(reward)
    return likelihood.loss


def test_the_softmax_loss_is_the_likelihood_of_the_reward() -> None:
    outputs, actions, rewards = draws()
    p = outputs.softmax(1)[torch.arange(6), actions]

    expected = -(rewards * p.log() + (1 - rewards) * (1 - p).log()).mean()

    torch.testing.assert_close(softmax_bandit_loss(outputs, actions, rewards), expected)


@pytest.mark.parametrize("loss", [SoftmaxLikelihood().loss, LogisticLikelihood().loss, squared()])
def test_gradients_are_those_of_finite_differences(loss: Loss) -> None:
    outputs, actions, rewards = draws()
    outputs.requires_grad_()

    assert torch.autograd.gradcheck(lambda z: loss(z, actions, rewards), (outputs,))


def test_a_label_that_is_surely_right_and_wrong_has_a_finite_gradient() -> None:
    outputs = torch.tensor([[60.0, 0.0, 0.0]], requires_grad=True)

    loss = softmax_bandit_loss(outputs, torch.tensor([0]), torch.zeros(1))
    (gradient,) = torch.autograd.grad(loss, outputs)

    torch.testing.assert_close(gradient, torch.tensor([[1.0, -0.5, -0.5]]))
    assert float(loss.detach()) == pytest.approx(60 - math.log(2))


def test_softmax_means_are_probabilities_and_logistic_ones_are_each_of_their_own() -> None:
    outputs = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    sigmoid = 1 / (1 + math.exp(-2))

    softmax, logistic = SoftmaxLikelihood().mean(outputs), LogisticLikelihood().mean(outputs)

    torch.testing.assert_close(softmax, torch.tensor([[sigmoid, 1 - sigmoid]]).double())
    torch.testing.assert_close(logistic, torch.tensor([[sigmoid, 0.5]]).double())


@pytest.mark.parametrize(("level", "unit"), [(1_000.0, 1.0), (0.0, 1e-3), (-5.0, 1e6)])
def test_the_squared_loss_has_no_unit(level: float, unit: float) -> None:
    outputs, actions, _ = draws()
    rewards = torch.tensor([0.1, -1.0, 2.0, 0.4, 0.0, -0.7], dtype=torch.float64)

    def loss(level: float, unit: float) -> float:
        likelihood = SquaredLikelihood()
        for reward in rewards.tolist():
            likelihood.add(level + unit * reward)
        return float(likelihood.loss(outputs, actions, level + unit * rewards))

    assert loss(level, unit) == pytest.approx(loss(0.0, 1.0), rel=1e-6)


def test_squared_means_are_in_the_unit_of_the_rewards() -> None:
    likelihood = SquaredLikelihood()
    for reward in (2.0, 6.0):
        likelihood.add(reward)

    assert likelihood.mean(torch.tensor([0.0, 1.0])).tolist() == [4.0, 6.0]


def test_probabilities_accept_rewards_of_0_to_1_alone() -> None:
    for name, kind in LIKELIHOODS.items():
        accepted = [kind().accepts(reward) for reward in (-0.1, 0.0, 0.5, 1.0, 1.1)]
        assert accepted == ([True] * 5 if name == "squared" else [False, True, True, True, False])


def test_a_restored_scale_gives_the_same_means() -> None:
    likelihood, other = SquaredLikelihood(), SquaredLikelihood()
    for reward in (1.0, 4.0, 9.0):
        likelihood.add(reward)
    other.load_state_dict(likelihood.state_dict())

    assert torch.equal(likelihood.mean(torch.ones(1)), other.mean(torch.ones(1)))
