"""The identities each algorithm must satisfy, in float64 unless said."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter

from tests.optim.problems import Quadratic, run
from vitucb.adapters import LoRAPair
from vitucb.optim import create_optimizer
from vitucb.optim.batch import FactorBatch, Stacks
from vitucb.optim.chain import Chain
from vitucb.optim.linear_algebra import gram, guard_scale, solve_sylvester
from vitucb.optim.lora_pro import Adjustment, XMode

XModes: tuple[XMode, ...] = ("zero", "sylvester", "symmetric")


def draw(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def make_pair(m: int = 9, n: int = 7, r: int = 3, s: float = 1.5, seed: int = 0) -> LoRAPair:
    A, B = Parameter(draw(seed, r, n)), Parameter(draw(seed + 1, m, r))
    return LoRAPair("layer", A, B, s, Parameter(draw(seed + 2, m, n), requires_grad=False))


def set_gradients(pair: LoRAPair, G: Tensor) -> None:
    pair.A.grad = pair.scaling * pair.B.detach().mT @ G
    pair.B.grad = pair.scaling * G @ pair.A.detach().mT


def weight(pair: LoRAPair) -> Tensor:
    assert pair.base is not None
    return (pair.base + pair.scaling * pair.B @ pair.A).detach()


def tangent_projection(pair: LoRAPair, G: Tensor) -> Tensor:
    A, B = pair.A.detach(), pair.B.detach()
    P_B, P_A = B @ torch.linalg.pinv(B), torch.linalg.pinv(A) @ A
    outside: Tensor = (torch.eye(len(P_B)) - P_B) @ G @ (torch.eye(len(P_A)) - P_A)
    return G - outside


def load(pair: LoRAPair) -> tuple[FactorBatch, Stacks, Stacks]:
    batch = FactorBatch([pair])
    return (
        batch,
        batch.stack([p.detach() for p in batch.parameters], batch.buffer("factor")),
        (batch.gradients(maximize=False)),
    )


def adjusted(pair: LoRAPair, x_mode: XMode) -> tuple[Tensor, Tensor]:
    batch, x, g = load(pair)
    result = Adjustment(x, batch, damping=0.0, delta=0.0, rcond=0.0)(g, x_mode)
    views = batch.unstack([stack.clone() for stack in result])
    return views[int(batch.index_A)], views[int(batch.index_B)]


# Identities 1 to 4: LoRA-Pro.


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


# Identities 5 and 6: the path of W does not depend on the gauge.


def orthogonal(seed: int, rows: int, r: int) -> Tensor:
    q: Tensor = torch.linalg.qr(draw(seed, rows, r))[0]
    return q


def gauge(kind: str, r: int, condition: float = 10.0) -> Tensor:
    left, right = orthogonal(100 + r, r, r), orthogonal(200 + r, r, r)
    if kind == "orthogonal":
        return left
    if kind == "scalar":
        return 5.0 * torch.eye(r, dtype=torch.float64)
    spread = torch.logspace(0.0, float(np.log10(condition)), r, dtype=torch.float64)
    return left @ torch.diag(spread) @ right


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
        "lora-rite", ours.pairs, lr=0.02, basis_rcond=0.0, eig_floor_rel=0.0, guard=0.0
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
    create_optimizer("lora-rite", [pair], lr=lr, **options).step()
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


# Identities 12, 13, 16: chains.

TEXTBOOK: dict[str, Any] = {
    "inner": "sgd", "inner_steps": 1, "inner_options": {"max_step": 0.0}
}  # fmt: skip


@pytest.mark.parametrize("side", ["left", "right"])
def test_one_block_of_one_sgd_step_is_the_projected_gradient_step(
    side: Literal["left", "right"],
) -> None:
    problem = Quadratic.make()
    optimizer = create_optimizer("rac-lora", problem.pairs, lr=0.1, side=side, **TEXTBOOK)
    sketches = [(p.B if side == "left" else p.A).detach().clone() for p in problem.pairs]
    before = problem.snapshot()
    run(problem, optimizer, 1)
    for W, old, target, S in zip(
        problem.snapshot(), before, problem.targets, sketches, strict=True
    ):
        H = S @ torch.linalg.pinv(S) if side == "left" else torch.linalg.pinv(S) @ S
        G = old - target
        expected = old - 0.1 * (H @ G if side == "left" else G @ H)
        torch.testing.assert_close(W, expected, rtol=0.0, atol=1e-13)


@pytest.mark.parametrize(("p", "side"), [(1.0, "left"), (0.0, "right")])
def test_a_certain_coin_is_rac_lora(p: float, side: str) -> None:
    bernoulli, rac = Quadratic.make(), Quadratic.make()

    coin: dict[str, Any] = {"p": p, "coin": "model", "max_step": 0.0}
    first = create_optimizer("bernoulli-lora", bernoulli.pairs, lr=0.1, **coin)
    second = create_optimizer("rac-lora", rac.pairs, lr=0.1, side=side, **TEXTBOOK)
    for _ in range(4):
        # Coins take draws too, so the sketches are copied over before every step.
        for ours, theirs in zip(bernoulli.pairs, rac.pairs, strict=True):
            ours.A.data.copy_(theirs.A.data)
            ours.B.data.copy_(theirs.B.data)
        run(bernoulli, first, 1)
        run(rac, second, 1)
    for a, b in zip(bernoulli.snapshot(), rac.snapshot(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-12)


def test_a_sketch_of_full_rank_is_gradient_descent() -> None:
    problem = Quadratic.make(shapes=((4, 7, 4),))
    optimizer = create_optimizer("rac-lora", problem.pairs, lr=0.3, **TEXTBOOK)
    expected = problem.snapshot()[0]
    for _ in range(5):
        run(problem, optimizer, 1)
        expected = expected - 0.3 * (expected - problem.targets[0])
    torch.testing.assert_close(problem.snapshot()[0], expected, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("name", ["rac-lora", "cola"])
@pytest.mark.parametrize("inner", ["adamw", "lora-rite"])
def test_a_merge_keeps_the_function_and_empties_the_state(name: str, inner: str) -> None:
    problem = Quadratic.make(dtype=torch.float32)
    optimizer = create_optimizer(
        name, problem.pairs, lr=0.02, inner=inner, inner_steps=100, other_params=[problem.head]
    )
    assert isinstance(optimizer, Chain)
    run(problem, optimizer, 3)
    before = problem.snapshot()
    optimizer.end_block()
    for old, new, pair in zip(before, problem.snapshot(), problem.pairs, strict=True):
        torch.testing.assert_close(old, new, rtol=0.0, atol=1e-5)
        assert not optimizer.state.get(pair.A)
        assert not optimizer.state.get(pair.B)
    assert optimizer.state[problem.head]


def test_reshuffling_merges_once_per_epoch() -> None:
    problem = Quadratic.make()
    optimizer = create_optimizer("rac-lora", problem.pairs, lr=0.02, inner="sgd")
    losses = optimizer.epoch([problem.closure] * 4)  # type: ignore[attr-defined]  # RACLoRA's own
    assert len(losses) == 4
    assert optimizer.merges == 1  # type: ignore[attr-defined]  # RACLoRA's own
    assert losses[-1] < losses[0]


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
