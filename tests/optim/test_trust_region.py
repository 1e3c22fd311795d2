"""The trust region on W."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter

from tests.optim.problems import Quadratic, run
from vitucb.models.lora import LoRAPair
from vitucb.optim import create_optimizer
from vitucb.optim.batched.factor_batch import FactorBatch
from vitucb.optim.batched.trust_region import MAX_STEP, trust_radius
from vitucb.optim.plain import PlainOptimizer

BOUNDED: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {}),
    ("sgd", {"momentum": 0.9}),
    ("lora-plus", {"base": "sgd", "ratio": 16.0}),
    ("lora-plus", {"max_step": 0.5}),
    ("torch.optim:Adagrad", {"max_step": 0.5}),
    ("scaled-gd", {"reg": 0.0}),
    ("lora-pro", {"base": "sgd"}),
    ("lora-pro", {"moments": "full"}),
    ("lora-pro", {"max_step": 0.5}),
]


def draw(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def make_pair(seed: int, m: int = 9, n: int = 7, r: int = 3, s: float = 1.5) -> LoRAPair:
    A, B = Parameter(draw(seed, r, n)), Parameter(draw(seed + 1, m, r))
    return LoRAPair("layer", A, B, s, None)


def radius(pair: LoRAPair, lr: float, max_step: float = MAX_STEP) -> float:
    """Longest allowed |dW|."""
    return pair.scaling * float(trust_radius(FactorBatch([pair]), lr, max_step)[0])


def move(name: str, options: dict[str, Any], pair: LoRAPair, G: Tensor, lr: float) -> Tensor:
    """The change of W by one step."""
    A, B, s = pair.A.detach().clone(), pair.B.detach().clone(), pair.scaling
    optimizer = create_optimizer(name, [pair], lr=lr, **options)
    pair.A.grad, pair.B.grad = s * B.mT @ G, s * G @ A.mT
    optimizer.step()
    return s * (pair.B.detach() @ pair.A.detach() - B @ A)


@pytest.mark.parametrize(("name", "options"), BOUNDED)
@given(st.integers(0, 1000), st.floats(-4.0, 6.0), st.floats(-4.0, 1.0))
@settings(max_examples=8, deadline=None)
def test_no_step_leaves_the_region(
    name: str, options: dict[str, Any], seed: int, exponent: float, rate: float
) -> None:
    pair, lr = make_pair(seed), 10.0**rate
    bound = radius(pair, lr)
    moved = move(name, options, pair, 10.0**exponent * draw(seed + 3, 9, 7), lr)
    assert 0.0 < float(moved.norm()) <= bound * (1.0 + 1e-9)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("scaled-gd", {"reg": 0.0}),
        ("lora-pro", {"base": "sgd", "x_mode": "zero", "damping": 0.0}),
        ("lora-pro", {"moments": "full", "x_mode": "symmetric", "damping": 0.0}),
    ],
)
def test_a_shortened_step_does_not_depend_on_the_gauge(name: str, options: dict[str, Any]) -> None:
    G, R, lr = 1e3 * draw(7, 9, 7), draw(8, 3, 3) + 2.0 * torch.eye(3), 0.01
    plain, turned = make_pair(0), make_pair(0)
    turned.A.data = torch.linalg.solve(R, turned.A.data)
    turned.B.data = turned.B.data @ R
    first, second = (move(name, options, pair, G, lr) for pair in (plain, turned))
    # It was shortened: the long step is not this one.
    assert float(
        move(name, {**options, "max_step": 0.0}, make_pair(0), G, lr).norm()
    ) > 1.5 * float(first.norm())
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("m", "n"), [(32, 64), (64, 64)])
def test_the_yardstick_is_adams_first_step_from_pefts_start(m: int, n: int) -> None:
    sizes = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        A = Parameter((2.0 * torch.rand(4, n, generator=generator) - 1.0) / n**0.5)
        pair = LoRAPair("layer", A, Parameter(torch.zeros(m, 4)), 2.0, None)
        moved = move("adamw", {}, pair, draw(seed, m, n).float(), 1e-3)
        sizes.append(float(moved.norm()) / radius(pair, 1e-3, max_step=1.0))
    assert sum(sizes) / 20 == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("is_settled_by_norms", [True, False])
def test_a_plain_step_within_the_region_keeps_every_bit(
    is_settled_by_norms: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_settled_by_norms:
        monkeypatch.setattr("vitucb.optim.batched.trust_region.is_surely_within", lambda *_: False)
    bounded, free = Quadratic.make(dtype=torch.float32), Quadratic.make(dtype=torch.float32)
    optimizers = [
        create_optimizer("sgd", bounded.pairs, lr=0.01, momentum=0.9, max_step=1e3),
        create_optimizer("torch.optim:SGD", free.pairs, lr=0.01, momentum=0.9),
    ]
    for problem, optimizer in zip((bounded, free), optimizers, strict=True):
        run(problem, optimizer, 5)
    for a, b in zip(bounded.snapshot(), free.snapshot(), strict=True):
        assert torch.equal(a, b)


def test_only_the_pair_that_would_leave_is_shortened() -> None:
    bounded, free = Quadratic.make(), Quadratic.make()
    optimizers = [
        create_optimizer("sgd", bounded.pairs, lr=1e-3, max_step=2.0),
        create_optimizer("torch.optim:SGD", free.pairs, lr=1e-3),
    ]
    for problem, optimizer in zip((bounded, free), optimizers, strict=True):
        problem.closure()
        for pair in problem.pairs:
            scale = 1e3 if pair is problem.pairs[1] else 1e-3
            for parameter in (pair.A, pair.B):
                assert parameter.grad is not None
                parameter.grad.mul_(scale)
        optimizer.step()
    same = [torch.equal(a, b) for a, b in zip(bounded.snapshot(), free.snapshot(), strict=True)]
    assert same == [True, False, True, True]


def test_a_pair_in_half_precision_is_bounded_too() -> None:
    pair = make_pair(0)
    pair.A.data, pair.B.data = pair.A.data.bfloat16(), pair.B.data.bfloat16()
    before = pair.B.detach().double() @ pair.A.detach().double()
    optimizer = create_optimizer("sgd", [pair], lr=1.0)
    pair.A.grad, pair.B.grad = 1e4 * torch.ones_like(pair.A), 1e4 * torch.ones_like(pair.B)
    optimizer.step()
    moved = 1.5 * (pair.B.detach().double() @ pair.A.detach().double() - before)
    assert float(moved.norm()) <= 1.05 * radius(pair, 1.0)


def test_a_state_saved_without_a_bound_continues_without_one() -> None:
    pair = make_pair(0)
    saved = create_optimizer("torch.optim:SGD", [pair], lr=1.0).state_dict()
    optimizer = create_optimizer("sgd", [pair], lr=1.0)
    optimizer.load_state_dict(saved)
    pair.A.grad, pair.B.grad = 1e3 * draw(3, 3, 7), torch.zeros(9, 3, dtype=torch.float64)
    expected = pair.A.detach() - pair.A.grad
    optimizer.step()
    torch.testing.assert_close(pair.A.detach(), expected)


def test_a_chain_passes_the_bound_to_what_it_restarts() -> None:
    def bound(name: str, **options: Any) -> float:
        optimizer = create_optimizer(name, Quadratic.make().pairs, lr=0.1, **options)
        return float(optimizer.param_groups[0].get("max_step", 0.0))

    assert bound("rac-lora") == bound("cola", inner="lora-plus") == MAX_STEP
    assert bound("bernoulli-lora") == bound("asymmetric-lora", inner="sgd") == MAX_STEP
    assert bound("asymmetric-lora") == bound("cola", inner_options={"max_step": 0.0}) == 0.0
    assert bound("bernoulli-lora", max_step=0.0) == 0.0


def test_lora_plus_is_not_bounded_with_adamw() -> None:
    optimizer = create_optimizer("lora-plus", Quadratic.make().pairs, lr=0.1)
    assert isinstance(optimizer, PlainOptimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.4]
    assert all("max_step" not in group for group in optimizer.param_groups)
