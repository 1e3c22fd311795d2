"""Identities 12, 13, 16 (float64 unless said): blocks are projected steps and merges keep W."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch

from tests.optim.problems import Quadratic, run
from vitucb.optim import create_optimizer
from vitucb.optim.chains.chain import Chain

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
