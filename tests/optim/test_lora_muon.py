"""LoRA-Muon against its definition, and against LoRA-RITE without moments (float64)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.optim.problems import Quadratic, run
from tests.optim.single_pair import draw, gauge, make_pair, set_gradients, weight
from vitucb.models.lora import LoRAPair
from vitucb.optim import create_optimizer

BARE: dict[str, Any] = {
    "basis_rcond": 0.0, "eig_floor_rel": 0.0, "guard": 0.0, "fix_gauge": False,
}  # fmt: skip
ONE_LAYER = ((9, 7, 3),)


def msign(x: Tensor) -> Tensor:
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    keep = s > 1e-9 * s[0]
    product: Tensor = (u * keep) @ v
    return product


def root(gram: Tensor, power: float) -> Tensor:
    values, vectors = torch.linalg.eigh(gram)
    powers = torch.where(values > 1e-12 * values[-1], values.abs() ** power, 0.0)
    product: Tensor = (vectors * powers) @ vectors.mT
    return product


class Reference:
    """The definition with singular values, one pair."""

    def __init__(self, pair: LoRAPair, lr: float, momentum: float, weight_decay: float) -> None:
        self.pair, self.lr, self.beta = pair, lr, momentum
        self.keep = (1.0 - lr * weight_decay) ** 0.5
        self.m_A, self.m_B = torch.zeros_like(pair.A), torch.zeros_like(pair.B)

    @torch.no_grad()
    def step(self) -> None:
        pair, half = self.pair, self.lr / (2.0 * self.pair.scaling)
        assert pair.A.grad is not None
        assert pair.B.grad is not None
        self.m_A = self.beta * self.m_A + (1.0 - self.beta) * pair.A.grad
        self.m_B = self.beta * self.m_B + (1.0 - self.beta) * pair.B.grad
        of_B, of_A = root(pair.B.mT @ pair.B, -0.5), root(pair.A @ pair.A.mT, -0.5)
        dA, dB = -half * of_B @ msign(of_B @ self.m_A), -half * msign(self.m_B @ of_A) @ of_A
        pair.A.copy_(self.keep * pair.A + dA / self.keep)
        pair.B.copy_(self.keep * pair.B + dB / self.keep)


@pytest.mark.parametrize("start", ["random", "zero"])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.0}, {"weight_decay": 0.5}])
def test_twenty_steps_follow_the_definition(start: str, options: dict[str, Any]) -> None:
    ours = Quadratic.make(start=start, shapes=ONE_LAYER)
    theirs = Quadratic.make(start=start, shapes=ONE_LAYER)
    optimizer = create_optimizer("lora-muon", ours.pairs, lr=0.1, **options, **BARE)
    reference = Reference(
        theirs.pairs[0], 0.1, options.get("momentum", 0.9), options.get("weight_decay", 0.0)
    )
    for _ in range(20):
        run(ours, optimizer, 1)
        theirs.closure()
        reference.step()
    for a, b in zip(ours.snapshot(), theirs.snapshot(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-9)


def qr_core(pair: LoRAPair, rate: float) -> None:
    """LoRA-RITE's step in QR coordinates with neither moment: g (g^T g)^-1/2 R^-T."""
    moves = []
    assert pair.A.grad is not None
    assert pair.B.grad is not None
    for dual, grad in ((pair.B, pair.A.grad.mT), (pair.A.mT, pair.B.grad)):
        _, R = torch.linalg.qr(dual.detach())
        inverse = torch.linalg.inv(R)
        g = grad @ inverse
        moves.append(rate * g @ root(g.mT @ g, -0.5) @ inverse.mT)
    pair.A.data -= moves[0].mT
    pair.B.data -= moves[1]


def test_lora_rite_without_moments_is_the_same_update() -> None:
    muon, rite, core = (Quadratic.make(shapes=ONE_LAYER) for _ in range(3))
    lr, s = 0.1, muon.pairs[0].scaling
    ours = create_optimizer("lora-muon", muon.pairs, lr=lr, momentum=0.0, **BARE)
    theirs = create_optimizer(
        "lora-rite", rite.pairs, lr=lr / (2.0 * s), betas=(0.0, 0.0), compat="paper",
        average=True, escaped_mass=False,
    )  # fmt: skip
    for _ in range(20):
        run(muon, ours, 1)
        run(rite, theirs, 1)
        core.closure()
        qr_core(core.pairs[0], lr / (2.0 * s))
    for other in (rite, core):
        for a, b in zip(muon.values()[:-1], other.values()[:-1], strict=True):
            torch.testing.assert_close(a, b, rtol=0.0, atol=1e-9)


def test_with_momentum_the_two_differ() -> None:
    muon, rite = (Quadratic.make(shapes=ONE_LAYER) for _ in range(2))
    lr, s = 0.1, muon.pairs[0].scaling
    run(muon, create_optimizer("lora-muon", muon.pairs, lr=lr, **BARE), 5)
    options: dict[str, Any] = {"compat": "paper", "average": True, "escaped_mass": False}
    rate = lr / (2.0 * s)
    run(rite, create_optimizer("lora-rite", rite.pairs, lr=rate, betas=(0.9, 0.0), **options), 5)
    assert float((muon.snapshot()[0] - rite.snapshot()[0]).norm()) > 1e-4


def path(kind: str | None, start: str, options: dict[str, Any]) -> list[Tensor]:
    problem = Quadratic.make(start=start)
    if kind is not None:
        for pair in problem.pairs:
            R = gauge(kind, pair.A.shape[0])
            pair.A.data = torch.linalg.solve(R, pair.A.data)
            pair.B.data = pair.B.data @ R
    optimizer = create_optimizer("lora-muon", problem.pairs, lr=0.05, **options)
    weights = []
    for _ in range(20):
        run(problem, optimizer, 1)
        weights += problem.snapshot()
    return weights


VARIANTS = [BARE, {"basis_rcond": 0.0}, {"basis_rcond": 0.0, "weight_decay": 0.3, "momentum": 0.0}]


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("start", ["random", "zero"])
@pytest.mark.parametrize("kind", ["scalar", "orthogonal", "general"])
def test_the_path_of_w_does_not_depend_on_the_gauge(
    kind: str, start: str, options: dict[str, Any]
) -> None:
    reference = path(None, start, options)
    for ours, theirs in zip(path(kind, start, options), reference, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("start", ["random", "zero"])
def test_fixing_the_gauge_keeps_the_path_of_w(start: str) -> None:
    exact: dict[str, Any] = {"basis_rcond": 0.0, "weight_decay": 0.1}
    reference = path(None, start, exact | {"fix_gauge": False})
    for ours, theirs in zip(path(None, start, exact), reference, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-9)


def step_of(pair: LoRAPair, lr: float, **options: Any) -> tuple[Tensor, Tensor]:
    """dA and dB of one step without momentum."""
    A, B = pair.A.detach().clone(), pair.B.detach().clone()
    create_optimizer("lora-muon", [pair], lr=lr, momentum=0.0, **BARE, **options).step()
    return pair.A.detach() - A, pair.B.detach() - B


@given(st.integers(0, 1000), st.integers(1, 7))
@settings(max_examples=25, deadline=None)
def test_no_other_step_of_that_size_descends_further(seed: int, r: int) -> None:
    pair, lr = make_pair(r=r, seed=seed), 0.1
    set_gradients(pair, draw(seed + 9, 9, 7))
    A, B, s = pair.A.detach().clone(), pair.B.detach().clone(), pair.scaling
    grads = pair.A.grad, pair.B.grad
    assert grads[0] is not None
    assert grads[1] is not None
    dA, dB = step_of(pair, lr)
    for part in (s * B @ dA, s * dB @ A):
        # All r singular values of each part are at its half of the budget.
        sizes = torch.linalg.svdvals(part)[:r]
        torch.testing.assert_close(sizes, torch.full_like(sizes, lr / 2), rtol=1e-6, atol=0.0)
    for k in range(5):
        other_A, other_B = draw(seed + k, *A.shape), draw(seed + k + 50, *B.shape)
        other_A *= lr / 2 / torch.linalg.matrix_norm(s * B @ other_A, 2)
        other_B *= lr / 2 / torch.linalg.matrix_norm(s * other_B @ A, 2)
        assert float((grads[0] * (dA - other_A)).sum()) <= 1e-9
        assert float((grads[1] * (dB - other_B)).sum()) <= 1e-9


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("s", [0.5, 4.0])
def test_the_first_step_from_zero_has_a_known_size(rank: int, s: float) -> None:
    pair, lr = make_pair(s=s), 1e-3
    pair.B.data.zero_()
    set_gradients(pair, 1e3 * draw(5, 9, rank) @ draw(6, rank, 7))
    A, before = pair.A.detach().clone(), weight(pair)
    create_optimizer("lora-muon", [pair], lr=lr, fix_gauge=False).step()
    assert torch.equal(pair.A, A)
    sizes = torch.linalg.svdvals(weight(pair) - before)
    expected = torch.tensor([lr / 2] * rank, dtype=torch.float64)
    torch.testing.assert_close(sizes[:rank], expected, rtol=1e-6, atol=0.0)
    assert float(sizes[rank:].max()) < 1e-9


def test_decay_shrinks_w_and_leaves_the_step_alone() -> None:
    changes = []
    for weight_decay in (0.0, 2.0):
        pair = make_pair()
        product = pair.scaling * (pair.B @ pair.A).detach()
        A, B = pair.A.detach().clone(), pair.B.detach().clone()
        set_gradients(pair, draw(3, 9, 7))
        dA, dB = step_of(pair, 0.1, weight_decay=weight_decay)
        keep = (1.0 - 0.1 * weight_decay) ** 0.5
        dA, dB = keep * (dA + (1.0 - keep) * A), keep * (dB + (1.0 - keep) * B)
        changes.append(pair.scaling * (B @ dA + dB @ A))
        shrunk = weight(pair) - (pair.base if pair.base is not None else 0.0) - changes[-1]
        cross = pair.scaling * dB @ dA / keep**2
        torch.testing.assert_close(shrunk.detach(), keep**2 * product + cross, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(changes[0], changes[1], rtol=0.0, atol=1e-12)


def test_a_weak_direction_of_b_does_not_let_a_grow() -> None:
    pair = make_pair(m=12, n=10, r=4)
    pair.B.data.zero_()
    optimizer = create_optimizer("lora-muon", [pair], lr=1e-2)
    for seed in range(60):
        set_gradients(pair, torch.outer(draw(0, 12) + 0.01 * draw(seed, 12), draw(200 + seed, 10)))
        optimizer.step()
    assert float(pair.A.detach().norm()) == pytest.approx((4 / 3) ** 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.0}, r"momentum 1.0 must be in \[0, 1\)"),
        ({"weight_decay": -1.0}, "weight_decay -1.0 must not be negative"),
        ({"weight_decay": 20.0}, "weight_decay 20.0 times lr 0.1 must be below 1"),
        ({"eig_floor_rel": -1e-4}, "eig_floor_rel -0.0001 must not be negative"),
        ({"guard": "no"}, "'lora-muon', option guard: expected float"),
        ({"betas": (0.9, 0.99)}, "no option 'betas'; options: .*momentum"),
    ],
)
def test_wrong_values_are_one_line_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_optimizer("lora-muon", [make_pair()], lr=0.1, **options)


@pytest.mark.parametrize("scale", [0.0, 1e-38])
def test_it_stays_finite_and_comes_to_rest_where_gradients_are_gone(scale: float) -> None:
    problem = Quadratic.make(dtype=torch.float32)
    optimizer = create_optimizer("lora-muon", problem.pairs, lr=0.02)
    run(problem, optimizer, 3)
    for step in range(900):
        for pair in problem.pairs:
            for factor in (pair.A, pair.B):
                factor.grad = torch.full_like(factor, scale)
        if step == 890:
            before = problem.snapshot()
        optimizer.step()
    for now, then in zip(problem.snapshot(), before, strict=True):
        torch.testing.assert_close(now, then)
