"""The closed-form head: against numpy, refitting without a point, and degenerate data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vitucb.learning.ridge_head import RidgeHead


def problem(n: int = 40, d: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(n, d, generator=generator, dtype=torch.float64) + 1
    y = h @ torch.arange(d).double() + torch.randn(n, generator=generator, dtype=torch.float64)
    return h, y


def put(head: RidgeHead, slots: Tensor, h: Tensor, y: Tensor) -> None:
    head.put(slots, h, y, torch.zeros(len(slots), dtype=torch.int64))


def fitted(h: Tensor, y: Tensor, ridge: float, prior: nn.Linear) -> tuple[RidgeHead, nn.Linear]:
    head, target = RidgeHead(prior, ridge), nn.Linear(h.shape[1], 1).double()
    put(head, torch.arange(len(h)), h, y)
    head.fit(target, 0.0, 1.0)
    return head, target


def zero_prior(d: int) -> nn.Linear:
    prior = nn.Linear(d, 1)
    nn.init.zeros_(prior.weight)
    return prior


def test_fit_is_ridge_regression_with_a_free_intercept() -> None:
    h, y = problem()
    _, head = fitted(h, y, 0.3, zero_prior(6))
    x, t = h.numpy(), y.numpy()
    centred = x - x.mean(axis=0)
    penalty = 0.3 * (x**2).sum(axis=1).mean()
    weight = np.linalg.solve(centred.T @ centred + penalty * np.eye(6), centred.T @ (t - t.mean()))
    np.testing.assert_allclose(head.weight.detach().numpy()[0], weight, rtol=1e-10)
    assert float(head.bias.detach()) == pytest.approx(t.mean() - x.mean(axis=0) @ weight)


def test_leave_one_out_errors_equal_refitting_without_the_point() -> None:
    h, y = problem()
    prior = nn.Linear(6, 1).double()
    head, _ = fitted(h, y, 0.1, prior)
    errors = head.leave_one_out_errors(torch.arange(len(h)))
    penalty = 0.1 * float(h.square().sum(dim=1).mean())  # of the full history in both
    w0 = prior.weight.detach()[0]
    for i in range(0, len(h), 7):
        keep = torch.arange(len(h)) != i
        x, t = h[keep], y[keep] - h[keep] @ w0
        centre = x.mean(dim=0)
        gram = (x - centre).T @ (x - centre) + penalty * torch.eye(6, dtype=torch.float64)
        step = torch.linalg.solve(gram, (x - centre).T @ (t - t.mean()))
        prediction = h[i] @ w0 + (h[i] - centre) @ step + t.mean()
        assert float(errors[i]) == pytest.approx(float(prediction - y[i]), rel=1e-8)


def test_without_information_the_prior_stays() -> None:
    prior = nn.Linear(6, 1).double()
    h = torch.ones(1, 6, dtype=torch.float64)
    _, head = fitted(h, torch.tensor([2.0], dtype=torch.float64), 0.1, prior)
    torch.testing.assert_close(head.weight.detach(), prior.weight.detach())
    assert float(head(h).detach()) == pytest.approx(2.0)


def test_refreshed_features_replace_the_old_ones() -> None:
    h, y = problem()
    head, target = fitted(torch.zeros_like(h), y, 0.1, zero_prior(6))
    put(head, torch.arange(len(h)).flip(0), h.flip(0), y.flip(0))
    head.fit(target, 0.0, 1.0)
    _, expected = fitted(h, y, 0.1, zero_prior(6))
    torch.testing.assert_close(target.weight, expected.weight)


def test_restored_head_continues_identically() -> None:
    h, y = problem()
    head, target = fitted(h[:30], y[:30], 0.1, nn.Linear(6, 1))
    restored, other = RidgeHead(nn.Linear(6, 1), 0.1), nn.Linear(6, 1).double()
    restored.load_state_dict(head.state_dict())
    for one, two in ((head, target), (restored, other)):
        put(one, torch.arange(30, 40), h[30:], y[30:])
        one.fit(two, 0.0, 1.0)
    torch.testing.assert_close(target.weight, other.weight, rtol=0, atol=0)


def test_targets_are_rewards_in_the_given_unit() -> None:
    h, y = problem()
    head, target = fitted(h, y, 0.1, zero_prior(6))
    head.fit(target, 3.0, 2.0)
    _, expected = fitted(h, (y - 3.0) / 2.0, 0.1, zero_prior(6))
    torch.testing.assert_close(target.weight, expected.weight)
    torch.testing.assert_close(target.bias, expected.bias)


def test_replaced_observation_leaves_no_trace() -> None:
    h, y = problem()
    head, target = fitted(h, y, 0.1, zero_prior(6))
    put(head, torch.tensor([4]), h[:1], y[:1])
    head.fit(target, 0.0, 1.0)
    kept = torch.arange(len(h)) != 4
    h2, y2 = torch.cat([h[kept], h[:1]]), torch.cat([y[kept], y[:1]])
    _, expected = fitted(h2, y2, 0.1, zero_prior(6))
    torch.testing.assert_close(target.weight, expected.weight)


def test_forgetting_weighs_observations_by_age() -> None:
    h, y = problem(6, 3)
    head, target = RidgeHead(zero_prior(3), 0.1), nn.Linear(3, 1).double()
    for i in range(6):
        head.forget(0.5)
        put(head, torch.tensor([i]), h[i : i + 1], y[i : i + 1])
    put(head, torch.arange(3), h[:3], y[:3])  # a refresh keeps the weight
    head.fit(target, 0.0, 1.0)
    w = 0.5 ** torch.arange(5, -1, -1).double()
    centred = h - (w[:, None] * h).sum(0) / w.sum()
    penalty = 0.1 * (w * h.square().sum(1)).sum() / w.sum() * torch.eye(3)
    gram = (centred.T * w) @ centred + penalty
    expected = torch.linalg.solve(gram, (centred.T * w) @ (y - (w * y).sum() / w.sum()))
    torch.testing.assert_close(target.weight.detach()[0], expected)


def test_an_equal_observation_in_the_slot_of_an_old_one_counts_in_full() -> None:
    h, y = problem(4, 3)
    head, same = RidgeHead(zero_prior(3), 0.1), RidgeHead(zero_prior(3), 0.1)
    put(head, torch.arange(4), h, y)
    head.forget(0.5)
    slots, actions = torch.tensor([1, 3]), torch.zeros(2, dtype=torch.int64)
    head.put(slots, h[slots], y[slots], actions, [3])
    assert head.state_dict()["weights"].tolist() == [0.5, 0.5, 0.5, 1.0]
    put(same, torch.arange(3), h[:3], y[:3])
    same.forget(0.5)
    put(same, torch.tensor([3]), h[3:], y[3:])
    torch.testing.assert_close(head.state_dict()["moments"], same.state_dict()["moments"])


def test_what_is_forgotten_stays_forgotten_when_it_is_refreshed() -> None:
    h, y = problem(4, 3)
    head = RidgeHead(zero_prior(3), 0.1)
    put(head, torch.arange(4), h, y)
    for _ in range(10):
        head.forget(1e-40)
    put(head, torch.arange(4), h, y)
    assert float(head.state_dict()["weights"].max()) < 1e-300


def test_outputs_learn_from_their_own_actions_only() -> None:
    h, y = problem()
    actions = torch.arange(len(h)) % 2
    prior = nn.Linear(6, 3)
    head, target = RidgeHead(prior, 0.1), nn.Linear(6, 3).double()
    head.put(torch.arange(len(h)), h, y, actions)
    head.fit(target, 0.0, 1.0)
    for action in (0, 1):
        single = nn.Linear(6, 1)
        with torch.no_grad():
            single.weight.copy_(prior.weight[action : action + 1])
        _, expected = fitted(h[actions == action], y[actions == action], 0.1, single)
        torch.testing.assert_close(target.weight[action], expected.weight[0])
    torch.testing.assert_close(target.weight[2], prior.weight[2].double())
    assert float(target.bias[2].detach()) == 0.0


def test_cleared_head_starts_again() -> None:
    h, y = problem()
    head, target = fitted(h, y, 0.1, zero_prior(6))
    head.clear()
    put(head, torch.arange(5), h[:5], y[:5])
    head.fit(target, 0.0, 1.0)
    _, expected = fitted(h[:5], y[:5], 0.1, zero_prior(6))
    torch.testing.assert_close(target.weight, expected.weight, rtol=0, atol=0)


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan")])
def test_ridge_must_be_positive(ridge: float) -> None:
    with pytest.raises(ValueError, match=r"agent\.head_ridge"):
        RidgeHead(nn.Linear(3, 1), ridge)


@pytest.mark.parametrize("seed", range(3))
def test_a_label_that_has_lost_its_last_observation_has_the_prior_again(seed: int) -> None:
    h, y = problem(20, seed=seed)
    prior, target = nn.Linear(6, 2).double(), nn.Linear(6, 2).double()
    head = RidgeHead(prior, 0.01)
    head.put(torch.arange(20), h, y, torch.arange(20) % 2)
    for slot in range(1, 20, 2):
        head.put(torch.tensor([slot]), h[[slot]] + 1, y[[slot]], torch.tensor([0]), new=[slot])
        head.fit(target, 0.0, 1.0)
    torch.testing.assert_close(target.weight[1], prior.weight[1])
    assert target.bias[1].item() == 0
