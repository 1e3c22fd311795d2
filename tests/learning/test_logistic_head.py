"""The logistic head: against scipy, leaving one out, and degenerate rewards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from vitucb.learning.logistic_head import LogisticHead


def problem(n: int = 60, d: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(n, d, generator=generator, dtype=torch.float64) + 0.5
    p = torch.sigmoid(h @ torch.tensor([2.0, -1.0, 0.5, 0.0], dtype=torch.float64))
    return h, (torch.rand(n, generator=generator, dtype=torch.float64) < p).double()


def fitted(h: Tensor, y: Tensor, prior: nn.Linear) -> tuple[LogisticHead, nn.Linear]:
    head, target = LogisticHead(prior, 0.2), nn.Linear(h.shape[1], 1).double()
    head.put(torch.arange(len(h)), h, y, torch.zeros(len(h), dtype=torch.int64))
    head.fit(target, 0.0, 1.0)
    return head, target


def optimum(h: Tensor, y: Tensor, prior: nn.Linear, unit: float) -> np.ndarray:
    x, t = np.hstack([h.numpy(), np.ones((len(h), 1))]), y.numpy()
    start = np.append(prior.weight.detach().double().numpy()[0], 0.0)
    penalty = np.append(np.full(h.shape[1], 0.2 * unit), 1.0) / 4

    def loss(theta: np.ndarray) -> float:
        z = x @ theta
        fit = np.logaddexp(0, z).sum() - t @ z
        return float(fit + 0.5 * (penalty * (theta - start) ** 2).sum())

    solution: np.ndarray = minimize(loss, start, tol=1e-12).x
    return solution


def test_fit_is_the_penalised_maximum_likelihood() -> None:
    h, y = problem()
    prior = nn.Linear(4, 1)
    _, target = fitted(h, y, prior)
    expected = optimum(h, y, prior, float(h.square().sum(1).mean()))
    found = torch.cat([target.weight.detach()[0], target.bias.detach()]).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_leave_one_out_errors_are_close_to_refitting() -> None:
    h, y = problem()
    prior = nn.Linear(4, 1)
    head, _ = fitted(h, y, prior)
    errors = head.leave_one_out_errors(torch.arange(len(h)))
    unit = float(h.square().sum(1).mean())
    for i in range(0, len(h), 9):
        keep = torch.arange(len(h)) != i
        theta = optimum(h[keep], y[keep], prior, unit)
        p = 1 / (1 + np.exp(-(h[i].numpy() @ theta[:-1] + theta[-1])))
        assert float(errors[i]) == pytest.approx(p - float(y[i]), abs=0.02)


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_equal_rewards_give_a_finite_head_on_the_right_side(reward: float) -> None:
    h, _ = problem(30)
    _, target = fitted(h, torch.full((30,), reward, dtype=torch.float64), nn.Linear(4, 1))
    p = torch.sigmoid(target(h)).mean()
    assert abs(float(p.detach()) - reward) < 0.2


def test_growing_history_reaches_the_same_solution() -> None:
    h, y = problem()
    prior = nn.Linear(4, 1)
    head, target = LogisticHead(prior, 0.2), nn.Linear(4, 1).double()
    for i in range(len(h)):
        head.put(torch.tensor([i]), h[i : i + 1], y[i : i + 1], torch.tensor([0]))
        head.fit(target, 0.0, 1.0)
    _, expected = fitted(h, y, prior)
    torch.testing.assert_close(target.weight, expected.weight, atol=1e-4, rtol=1e-4)


def test_restored_head_continues_identically() -> None:
    h, y = problem()
    head, target = fitted(h[:40], y[:40], nn.Linear(4, 1))
    restored, other = LogisticHead(nn.Linear(4, 1), 0.2), nn.Linear(4, 1).double()
    restored.load_state_dict(head.state_dict())
    for one, two in ((head, target), (restored, other)):
        one.put(torch.arange(40, 60), h[40:], y[40:], torch.zeros(20, dtype=torch.int64))
        one.fit(two, 0.0, 1.0)
    torch.testing.assert_close(target.weight, other.weight, rtol=0, atol=0)
