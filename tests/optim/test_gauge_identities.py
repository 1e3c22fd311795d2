"""Identities 5 to 10, 18, 20 (float64): paths of W, LoRA-RITE and the guard, whatever the gauge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter

from tests.optim.problems import Quadratic, run
from tests.optim.single_pair import draw, gauge, load, make_pair, orthogonal, set_gradients, weight
from vitucb.models.lora import LoRAPair
from vitucb.optim import create_optimizer
from vitucb.optim.batched.linear_algebra import gram, guard_scale

# Identities 5 and 6: the path of W does not depend on the gauge.


def path(kind: str | None, name: str, options: dict[str, Any], start: str) -> list[Tensor]:
    problem = Quadratic.make(start=start)
    if kind is not None:
        for pair in problem.pairs:
            R = gauge(kind, pair.A.shape[0])
            pair.A.data = torch.linalg.solve(R, pair.A.data)
            pair.B.data = pair.B.data @ R
    optimizer = create_optimizer(name, problem.pairs, lr=0.02, **options)
    weights = []
    for _ in range(20):
        run(problem, optimizer, 1)
        weights += problem.snapshot()
    return weights


_EXACT_PRO = {"damping": 0.0}
RITE_VARIANTS: list[dict[str, Any]] = [
    {"basis_rcond": 0.0},
    {"compat": "official", "skip_rms": 0.0},
    {"compat": "paper"},
    {"compat": "paper", "average": True, "eps": 1e-6},
    {
        "basis_rcond": 0.0,
        "weight_decay": 0.1,
        "clip_norm": 1.0,
        "skip_rms": 2.0,
        "cap_rms": 0.5,
        "guard": 0.5,
    },
]


@pytest.mark.parametrize("options", RITE_VARIANTS)
@pytest.mark.parametrize("start", ["zero", "random"])
def test_rite_does_not_depend_on_the_gauge(options: dict[str, Any], start: str) -> None:
    reference = path(None, "lora-rite", options, start)
    for ours, theirs in zip(path("general", "lora-rite", options, start), reference, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        ("general", "lora-pro", {"base": "sgd", "x_mode": "zero", **_EXACT_PRO}),
        ("general", "lora-pro", {"base": "sgd", "x_mode": "symmetric", **_EXACT_PRO}),
        ("general", "lora-pro", {"moments": "full", "x_mode": "zero", **_EXACT_PRO}),
        ("general", "lora-pro", {"moments": "full", "x_mode": "symmetric", **_EXACT_PRO}),
        ("orthogonal", "lora-pro", {"base": "sgd", "x_mode": "sylvester", **_EXACT_PRO}),
        ("general", "scaled-gd", {"reg": 0.0}),
        ("orthogonal", "sgd", {}),
        ("scalar", "lamb", {"eps": 0.0}),
    ],
)
def test_the_path_is_invariant_where_the_paper_says_so(
    kind: str, name: str, options: dict[str, Any]
) -> None:
    reference = path(None, name, options, "random")
    for ours, theirs in zip(path(kind, name, options, "random"), reference, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-9)


# Identities 7 to 10 and 18: LoRA-RITE against its definition with QR bases.


class QRRite:
    """Algorithm 1 (EMA form) as written: QR bases kept explicitly, one factor at a time."""

    def __init__(self, pair: LoRAPair, lr: float, sign: float) -> None:
        self.pair, self.lr, self.sign, self.t = pair, lr, sign, 0
        r = pair.A.shape[0]
        self.V = [torch.zeros(r, r, dtype=torch.float64) for _ in range(2)]
        self.M = [torch.zeros_like(pair.A.mT), torch.zeros_like(pair.B)]
        self.rho = [torch.zeros((), dtype=torch.float64) for _ in range(2)]
        self.U: list[Tensor | None] = [None, None]

    def step(self, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6) -> None:
        self.t += 1
        b1, b2 = (b * (1 - b ** (self.t - 1)) / (1 - b**self.t) for b in betas)
        pair = self.pair
        assert pair.A.grad is not None
        assert pair.B.grad is not None
        sides = [(pair.B, pair.A.grad.mT), (pair.A.mT, pair.B.grad)]
        moves = []
        for k, (dual, grad) in enumerate(sides):
            U, R = torch.linalg.qr(dual.detach())
            U, R = self.sign * U, self.sign * R
            inverse = torch.linalg.pinv(R)
            g = grad @ inverse
            old = self.U[k]
            P = torch.zeros_like(R) if old is None else U.mT @ old
            carried = P @ self.V[k] @ P.mT
            lost = torch.linalg.eigvalsh(self.V[k]) - torch.linalg.eigvalsh(carried)
            self.rho[k] = b2 * (self.rho[k] + lost.max().clamp_min(0.0))
            self.V[k] = b2 * carried + (1 - b2) * g.mT @ g / len(g)
            values, Q = torch.linalg.eigh(self.V[k])
            root = (values.clamp_min(0.0) + self.rho[k]).sqrt() + eps
            S = g @ (Q / root) @ Q.mT
            self.M[k] = b1 * self.M[k] @ P.mT + (1 - b1) * S
            moves.append(self.lr * self.M[k] @ inverse.mT)
            self.U[k] = U
        pair.A.data -= moves[0].mT
        pair.B.data -= moves[1]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_cross_gram_form_equals_the_qr_form(sign: float) -> None:
    ours, reference = Quadratic.make(shapes=((9, 7, 3),)), Quadratic.make(shapes=((9, 7, 3),))
    optimizer = create_optimizer(
        "lora-rite",
        ours.pairs,
        lr=0.02,
        basis_rcond=0.0,
        eig_floor_rel=0.0,
        guard=0.0,
        fix_gauge=False,
    )
    slow = QRRite(reference.pairs[0], 0.02, sign)
    for _ in range(20):
        run(ours, optimizer, 1)
        reference.closure()
        slow.step()
    for a, b in zip(ours.values(), reference.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_first_rite_step_from_zero_has_a_known_size(rank: int) -> None:
    pair, lr = make_pair(), 1e-3
    pair.B.data.zero_()
    G = 1e3 * draw(5, 9, rank) @ draw(6, rank, 7)
    set_gradients(pair, G)
    A = pair.A.detach().clone()
    before = weight(pair)
    options: dict[str, Any] = {"eps": 0.0, "eig_floor_rel": 1e-10, "basis_rcond": 0.0}
    create_optimizer("lora-rite", [pair], lr=lr, fix_gauge=False, **options).step()
    assert torch.equal(pair.A, A)
    size = float((weight(pair) - before).norm())
    assert size == pytest.approx(pair.scaling * lr * (9 * rank) ** 0.5, rel=1e-6)


@given(st.integers(0, 10_000), st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_the_escaped_mass_is_never_negative_and_below_the_trace(seed: int, r: int) -> None:
    root = draw(seed, r, r)
    V = root @ root.mT
    P = orthogonal(seed + 1, 9, r).mT @ orthogonal(seed + 2, 9, r)
    carried = P @ V @ P.mT
    lost = torch.linalg.eigvalsh(V) - torch.linalg.eigvalsh(carried)
    assert float(lost.min()) >= -1e-10
    assert float(lost.max()) <= float(V.trace() - carried.trace()) + 1e-10


def test_the_bias_corrected_decay_is_adams_correction() -> None:
    beta, average, raw = 0.9, 0.0, 0.0
    for t in range(1, 50):
        x = float(np.sin(t))
        decay = beta * (1 - beta ** (t - 1)) / (1 - beta**t)
        average = decay * average + (1 - decay) * x
        raw = beta * raw + (1 - beta) * x
        assert average == pytest.approx(raw / (1 - beta**t), abs=1e-14)


# Identity 20: the guard.


@given(st.integers(0, 1000), st.floats(-3.0, 3.0), st.floats(0.1, 2.0))
@settings(max_examples=25, deadline=None)
def test_the_guard_bounds_the_cross_term_in_every_gauge(
    seed: int, exponent: float, kappa: float
) -> None:
    pair = make_pair(seed=seed)
    dA, dB = 10.0**exponent * draw(seed + 5, 3, 7), draw(seed + 6, 9, 3)
    R = gauge("general", 3)
    scales = []
    for change in (torch.eye(3, dtype=torch.float64), R):
        A, B = torch.linalg.solve(change, pair.A.detach()), pair.B.detach() @ change
        moved = LoRAPair("layer", Parameter(A), Parameter(B), 1.0, None)
        batch, x, _ = load(moved)
        tall = [torch.linalg.solve(change, dA), dB @ change]
        order = [tall[int(is_b)] for is_b in batch.is_B]
        scale = guard_scale(x, batch.stack(order, batch.new_stacks()), batch, kappa)
        assert float(scale[0]) == pytest.approx(float(scale[1]), rel=1e-12)
        scales.append(float(scale[0]))
    a = scales[0]
    cross = a * a * (dB @ dA).norm()
    first = a * (pair.B @ dA + dB @ pair.A).detach().norm()
    assert float(cross) <= kappa * float(first) * (1 + 1e-8)
    assert scales[1] == pytest.approx(a, rel=1e-8)


def test_a_gram_in_wide_form_is_the_gram_of_the_factor() -> None:
    pair = make_pair()
    batch, x, _ = load(pair)
    grams = gram(x)
    A, B = pair.A.detach(), pair.B.detach()
    torch.testing.assert_close(grams[int(batch.index_A)], A @ A.mT)
    torch.testing.assert_close(grams[int(batch.index_B)], B.mT @ B)


# The gauge that LoRA-RITE leaves its factors in.


@pytest.mark.parametrize("start", ["zero", "random"])
def test_rite_keeps_the_path_of_w_when_it_fixes_the_gauge(start: str) -> None:
    exact: dict[str, Any] = {"basis_rcond": 0.0, "weight_decay": 0.1}
    reference = path(None, "lora-rite", exact | {"fix_gauge": False}, start)
    for ours, theirs in zip(path(None, "lora-rite", exact, start), reference, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-10)


def test_gradient_features_are_the_same_in_every_gauge_after_rite() -> None:
    products = []
    for kind in (None, "scalar", "general"):
        pair = make_pair()
        if kind is not None:
            R = gauge(kind, 3)
            pair.A.data, pair.B.data = torch.linalg.solve(R, pair.A.data), pair.B.data @ R
        optimizer = create_optimizer("lora-rite", [pair], lr=0.02, basis_rcond=0.0)
        for seed in range(5):
            set_gradients(pair, draw(seed, 9, 7))
            optimizer.step()
        third = torch.eye(3, dtype=torch.float64) / 3.0
        torch.testing.assert_close(pair.A.detach() @ pair.A.detach().mT, third, atol=1e-12, rtol=0)
        rows = []
        for seed in range(4):
            set_gradients(pair, draw(50 + seed, 9, 7))
            assert pair.A.grad is not None
            assert pair.B.grad is not None
            rows.append(torch.cat([pair.A.grad.flatten(), pair.B.grad.flatten()]))
        phi = torch.stack(rows)
        products.append(phi @ phi.mT)  # all that widths depend on
    for other in products[1:]:
        torch.testing.assert_close(other, products[0], rtol=1e-10, atol=1e-10)


def test_a_weak_direction_of_b_does_not_let_a_grow() -> None:
    pair = make_pair(m=12, n=10, r=4)
    pair.B.data.zero_()
    optimizer = create_optimizer("lora-rite", [pair], lr=1e-3)
    for seed in range(60):
        G = torch.outer(draw(0, 12) + 0.01 * draw(seed, 12), draw(200 + seed, 10))
        set_gradients(pair, G)
        optimizer.step()
    assert float(pair.A.detach().norm()) == pytest.approx((4 / 3) ** 0.5)


@pytest.mark.parametrize("reason", ["frozen", "deficient"])
def test_the_gauge_is_left_alone_where_it_cannot_be_fixed(reason: str) -> None:
    factors = []
    for fix_gauge in (True, False):
        pair = make_pair(n=2) if reason == "deficient" else make_pair()
        optimizer = create_optimizer("lora-rite", [pair], lr=0.02, fix_gauge=fix_gauge)
        for seed in range(3):
            set_gradients(pair, draw(seed, 9, pair.A.shape[1]))
            if reason == "frozen":
                pair.A.grad = None
            optimizer.step()
        factors.append((pair.A.detach(), pair.B.detach()))
    for ours, theirs in zip(*factors, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-12)


def test_balance_leaves_a_pair_alone_that_misses_a_gradient() -> None:
    pair = make_pair()
    optimizer = create_optimizer("lora-rite", [pair], lr=1e-9, balance=True)
    set_gradients(pair, draw(0, 9, 7))
    pair.B.grad = None
    before = weight(pair)
    optimizer.step()
    torch.testing.assert_close(weight(pair), before, rtol=0.0, atol=1e-6)
