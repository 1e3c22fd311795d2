"""The bandit likelihood: gradients, solutions, limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from vitucb.learning.experts.label_head import (
    LIKELIHOODS,
    LabelData,
    LabelHead,
    centre_and_scale,
    fit_head,
    softmax_likelihood,
)

NAMES = sorted(LIKELIHOODS)


def data(rows: int = 60, features: int = 4, labels: int = 3, seed: int = 0) -> LabelData:
    rng = np.random.default_rng(seed)
    h = 2.0 + rng.standard_normal((rows, features))
    truth = (h @ rng.standard_normal((features, labels))).argmax(1)
    actions = rng.integers(0, labels, rows)
    hits = (truth == actions).astype(np.float64)
    return LabelData(
        torch.from_numpy(h),
        torch.from_numpy(actions),
        torch.from_numpy(np.clip(hits + 0.2 * rng.random(rows) - 0.1, 0, 1)),
        torch.full((rows,), 1 / rows, dtype=torch.float64),
        float(rows),
    )


def zero(labels: int = 3, features: int = 4) -> LabelHead:
    return LabelHead(np.zeros((labels, features)), np.zeros(labels))


@pytest.mark.parametrize("name", NAMES)
def test_slopes_equal_finite_differences(name: str) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 4, dtype=torch.float64)
    actions, rewards = (
        torch.tensor([0, 1, 2, 3, 0, 1]),
        torch.tensor([0, 1, 0.3, 0.9, 1, 0]).double(),
    )
    slopes = LIKELIHOODS[name](logits, actions, rewards)[1]
    step = 1e-6
    for j in range(4):
        moved = torch.zeros_like(logits)
        moved[:, j] = step
        up, down = (LIKELIHOODS[name](logits + s * moved, actions, rewards)[0] for s in (1, -1))
        torch.testing.assert_close((up - down) / (2 * step), slopes[:, j], atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_slopes_equal_automatic_differentiation_of_the_plain_formula(name: str) -> None:
    torch.manual_seed(1)
    logits = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    actions, rewards = torch.randint(0, 3, (8,)), torch.rand(8, dtype=torch.float64)
    p = logits.softmax(1) if name == "softmax" else logits.sigmoid()
    of_chosen = p.gather(1, actions[:, None])[:, 0]
    plain = -rewards * of_chosen.log() - (1 - rewards) * (1 - of_chosen).log()
    losses, slopes = LIKELIHOODS[name](logits.detach(), actions, rewards)
    torch.testing.assert_close(losses, plain.detach())
    torch.testing.assert_close(slopes, torch.autograd.grad(plain.sum(), logits)[0])


def test_slopes_stay_finite_where_the_head_is_sure_and_wrong() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0]], dtype=torch.float64)
    for action, reward in ((0, 0.0), (1, 1.0), (0, 1.0), (1, 0.0)):
        losses, slopes = softmax_likelihood(logits, torch.tensor([action]), torch.tensor([reward]))
        assert torch.isfinite(losses).all()
        assert torch.isfinite(slopes).all()
        assert slopes.abs().max() <= 1.0


def penalised_loss(name: str, d: LabelData, flat: np.ndarray, prior: float) -> float:
    """The objective written out, on features that are neither centred nor scaled."""
    scale = centre_and_scale(d.features)[1]
    weight, bias = flat[:-3].reshape(3, -1), flat[-3:]
    logits: Tensor = d.features @ torch.from_numpy(weight).T + torch.from_numpy(bias)
    loss = float(LIKELIHOODS[name](logits, d.actions, d.rewards)[0].mean())
    held = (
        scale**2 * np.square(weight).sum() * 5.0 + 0.25 * np.square(bias_of(d, flat) - prior).sum()
    )
    return float(loss + held / (2 * d.count))


def bias_of(d: LabelData, flat: np.ndarray) -> np.ndarray:
    """Logits (K,) at the mean of the features."""
    found: np.ndarray = flat[-3:] + flat[:-3].reshape(3, -1) @ d.features.mean(0).numpy()
    return found


@pytest.mark.parametrize(("name", "prior"), [("softmax", 0.0), ("logistic", -1.0)])
def test_the_fit_equals_a_reference_solution(name: str, prior: float) -> None:
    d = data()
    head = zero()
    for _ in range(20):
        head = fit_head(head, d, LIKELIHOODS[name], decay=5.0, prior_bias=prior, iterations=50)
    found = np.concatenate([head.weight.ravel(), head.bias])
    reference = minimize(
        lambda flat: penalised_loss(name, d, flat, prior), np.zeros(15), method="BFGS"
    ).x
    np.testing.assert_allclose(found, reference, atol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_eight_iterations_from_an_old_solution_lower_the_loss(name: str) -> None:
    settings = {"decay": 5.0, "prior_bias": 0.0, "iterations": 8}
    old = fit_head(zero(), data(30), LIKELIHOODS[name], **settings)  # type: ignore[arg-type]
    new = fit_head(old, data(60), LIKELIHOODS[name], **settings)  # type: ignore[arg-type]
    losses = [
        penalised_loss(name, data(60), np.concatenate([h.weight.ravel(), h.bias]), 0.0)
        for h in (old, new)
    ]
    assert losses[1] < losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_do_not_depend_on_the_unit_of_the_features(name: str) -> None:
    d = data()
    scaled = LabelData(1e3 * d.features, d.actions, d.rewards, d.shares, d.count)
    fits = [
        fit_head(zero(), part, LIKELIHOODS[name], decay=30.0, prior_bias=0.0, iterations=30)
        for part in (d, scaled)
    ]
    h = d.features.numpy()
    np.testing.assert_allclose(fits[0].logits(h), fits[1].logits(1e3 * h), atol=1e-6)


def test_the_same_image_again_and_again_has_a_scale() -> None:
    centre, scale = centre_and_scale(torch.ones(5, 3))
    assert scale == 1.0
    assert torch.equal(centre, torch.ones(3))
    assert centre_and_scale(torch.zeros(1, 3))[1] == 1.0
