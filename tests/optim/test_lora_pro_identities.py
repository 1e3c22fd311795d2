"""Identities 1 to 4 (float64): LoRA-Pro projects, and changes the factor gradients least."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.optim.single_pair import draw, load, make_pair, set_gradients, weight
from vitucb.models.lora import LoRAPair
from vitucb.optim import create_optimizer
from vitucb.optim.batched.linear_algebra import solve_sylvester
from vitucb.optim.lora_pro import Adjustment, LoRAPro, XMode

XModes: tuple[XMode, ...] = ("zero", "sylvester", "symmetric")


def tangent_projection(pair: LoRAPair, G: Tensor) -> Tensor:
    A, B = pair.A.detach(), pair.B.detach()
    P_B, P_A = B @ torch.linalg.pinv(B), torch.linalg.pinv(A) @ A
    outside: Tensor = (torch.eye(len(P_B)) - P_B) @ G @ (torch.eye(len(P_A)) - P_A)
    return G - outside


def adjusted(pair: LoRAPair, x_mode: XMode) -> tuple[Tensor, Tensor]:
    batch, x, g = load(pair)
    result = Adjustment(x, batch, damping=0.0, delta=0.0, rcond=0.0)(g, x_mode)
    views = batch.unstack([stack.clone() for stack in result])
    return views[int(batch.index_A)], views[int(batch.index_B)]


@given(
    st.integers(3, 12), st.integers(3, 12), st.integers(1, 3), st.integers(0, 1000),
    st.sampled_from(XModes),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_the_equivalent_gradient_is_the_tangent_projection(
    m: int, n: int, r: int, seed: int, x_mode: XMode
) -> None:
    pair, G = make_pair(m, n, r, seed=seed), draw(seed + 9, m, n)
    set_gradients(pair, G)
    gA, gB = adjusted(pair, x_mode)
    A, B, s = pair.A.detach(), pair.B.detach(), pair.scaling
    projection = tangent_projection(pair, G)
    torch.testing.assert_close(s * (B @ gA + gB @ A), projection, rtol=1e-8, atol=1e-8)
    assert pair.A.grad is not None
    assert pair.B.grad is not None
    inner = (pair.A.grad * gA).sum() + (pair.B.grad * gB).sum()
    torch.testing.assert_close(inner, projection.square().sum(), rtol=1e-8, atol=1e-8)


def test_one_pro_sgd_step_is_the_projected_step_plus_the_cross_term() -> None:
    pair, G, lr = make_pair(), draw(9, 9, 7), 0.01
    set_gradients(pair, G)
    before, (gA, gB), projection = weight(pair), adjusted(pair, "zero"), tangent_projection(pair, G)
    options: dict[str, Any] = {"base": "sgd", "x_mode": "zero", "damping": 0.0, "guard": 0.0}
    create_optimizer("lora-pro", [pair], lr=lr, **options).step()
    expected = before - lr * projection + pair.scaling * lr**2 * gB @ gA
    torch.testing.assert_close(weight(pair), expected, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("singular", [False, True])
def test_the_closed_form_solves_the_sylvester_equation(singular: bool) -> None:
    B, A = draw(0, 9, 4), draw(1, 4, 7)
    if singular:
        B[:, 0] = 0.0
    L, R = B.mT @ B, A @ A.mT
    C = L @ draw(2, 4, 4)
    X = solve_sylvester(
        tuple(torch.linalg.eigh(L)),
        tuple(torch.linalg.eigh(R)),
        C,
    )
    torch.testing.assert_close(L @ X + X @ R, C, rtol=0.0, atol=1e-12 * float(C.norm()))
    operator = torch.kron(L, torch.eye(4)) + torch.kron(torch.eye(4), R)
    direct = torch.linalg.solve(operator, C.flatten()).view(4, 4)
    torch.testing.assert_close(X, direct, rtol=0.0, atol=1e-11)


def test_sylvester_changes_the_factor_gradients_least() -> None:
    pair = make_pair()
    set_gradients(pair, draw(9, 9, 7))
    gA, gB = adjusted(pair, "sylvester")
    A, B = pair.A.detach(), pair.B.detach()
    assert pair.A.grad is not None
    assert pair.B.grad is not None
    grad_A, grad_B = pair.A.grad, pair.B.grad

    def distance(X: Tensor) -> float:
        return float((gA + X @ A - grad_A).square().sum() + (gB - B @ X - grad_B).square().sum())

    best = distance(torch.zeros(3, 3, dtype=torch.float64))
    assert all(distance(0.1 * draw(seed, 3, 3)) > best for seed in range(100))


@pytest.mark.parametrize(
    ("decay", "product", "base"), [("adapter", 0.9, 1.0), ("factor", 0.81, 1.0), ("full", 0.9, 0.9)]
)
@pytest.mark.parametrize("moments", ["factored", "full"])
def test_pro_decay_shrinks_what_it_says(
    decay: str, product: float, base: float, moments: str
) -> None:
    pair = make_pair()
    assert pair.base is not None
    frozen, BA = pair.base.detach().clone(), (pair.B @ pair.A).detach()
    set_gradients(pair, torch.zeros(9, 7, dtype=torch.float64))
    options: dict[str, Any] = {"moments": moments, "decay": decay, "weight_decay": 1.0}
    create_optimizer("lora-pro", [pair], lr=0.1, **options).step()
    torch.testing.assert_close((pair.B @ pair.A).detach(), product * BA)
    torch.testing.assert_close(pair.base.detach(), base * frozen)


def test_bases_that_decayed_go_back_with_the_state_and_stay_when_it_is_forgotten() -> None:
    pair = make_pair()
    assert pair.base is not None
    start = pair.base.detach().clone()
    options: dict[str, Any] = {"decay": "full", "weight_decay": 1.0}
    optimizer = create_optimizer("lora-pro", [pair], lr=0.1, **options)
    assert isinstance(optimizer, LoRAPro)
    untouched = optimizer.state_dict()
    set_gradients(pair, torch.zeros(9, 7, dtype=torch.float64))
    optimizer.step()
    optimizer.load_state_dict(untouched)
    torch.testing.assert_close(pair.base.detach(), start, rtol=0, atol=0)
    optimizer.step()
    optimizer.reset_state()
    optimizer.step()
    torch.testing.assert_close(pair.base.detach(), 0.81 * start)
