"""Chains that are handed a finite sum, and what they train beside the pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.optim.problems import Quadratic
from vitucb.optim import create_optimizer
from vitucb.optim.chains.bernoulli_lora import BernoulliLoRA
from vitucb.optim.chains.rac_lora import RACLoRA

Closure = Callable[[], float]


class Terms:
    """Notes what is asked for; every closure is the problem's own."""

    def __init__(self, problem: Quadratic) -> None:
        self.problem = problem
        self.asked: list[str] = []

    def sample(self) -> Closure:
        self.asked.append("sample")
        return self.problem.closure

    def full(self, limit: int) -> Closure:
        self.asked.append(f"full {limit}")
        return self.problem.closure

    def shards(self, count: int, limit: int) -> list[Closure]:
        self.asked.append(f"shards {count} {limit}")
        return [self.problem.closure] * count

    def passes(self, count: int, limit: int) -> list[list[Closure]]:
        self.asked.append(f"passes {count} {limit}")
        return [[self.problem.closure] * 3 for _ in range(count)]


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"estimator": "gd"}, ["full 9"]),
        ({"estimator": "subgradient", "step_size": "polyak"}, ["full 9"]),
        ({"estimator": "sgd", "step_size": "polyak"}, ["sample"]),
        ({"estimator": "page"}, ["sample", "full 9"]),
        ({"estimator": "mvr"}, ["sample"]),
        ({"estimator": "qgd"}, ["shards 2 9"]),
        ({"estimator": "marina"}, ["shards 2 9"]),
        ({"estimator": "ef21"}, ["shards 2 9"]),
    ],
)
def test_an_estimator_asks_for_what_it_uses(options: dict[str, Any], asked: list[str]) -> None:
    problem = Quadratic.make()
    optimizer = create_optimizer(
        "bernoulli-lora", problem.pairs, lr=0.05, clients=2, full_limit=9, **options
    )
    assert isinstance(optimizer, BernoulliLoRA)
    assert optimizer.needs_closures
    terms = Terms(problem)
    losses = [optimizer.step_on(terms) for _ in range(30)]
    assert terms.asked == asked * 30
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("data", "asked"), [("reshuffling", "passes 1 9"), ("federated", "passes 2 9")]
)
def test_rac_lora_makes_a_block_of_a_finite_sum(data: str, asked: str) -> None:
    problem = Quadratic.make()
    optimizer = create_optimizer(
        "rac-lora", problem.pairs, lr=0.05, inner="sgd", data=data, clients=2, full_limit=9
    )
    assert isinstance(optimizer, RACLoRA)
    terms = Terms(problem)
    losses = [optimizer.step_on(terms) for _ in range(5)]
    assert terms.asked == [asked] * 5
    assert optimizer.merges == 5
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("estimator", ["qgd", "marina", "ef21"])
def test_the_head_gets_the_mean_gradient_of_all_clients(estimator: str) -> None:
    problem = Quadratic.make()
    optimizer = create_optimizer(
        "bernoulli-lora", problem.pairs, lr=0.0, estimator=estimator,
        other_params=[problem.head], other_lr=0.0,
    )  # fmt: skip
    assert isinstance(optimizer, BernoulliLoRA)

    def client(pull: float) -> Closure:
        def evaluate() -> float:
            loss = problem.closure()
            problem.head.grad = torch.full_like(problem.head, pull)
            return loss

        return evaluate

    for _ in range(3):
        optimizer.step(clients=[client(1.0), client(2.0), client(6.0)])
        assert problem.head.grad is not None
        assert torch.equal(problem.head.grad, torch.full((3,), 3.0))


def test_polyaks_step_is_bounded_and_rests_where_the_gradient_is_zero() -> None:
    problem = Quadratic.make()
    polyak: dict[str, Any] = {"estimator": "subgradient", "step_size": "polyak"}
    optimizer = create_optimizer("bernoulli-lora", problem.pairs, lr=0.1, **polyak)

    def loss_of(pull: float) -> Closure:
        def evaluate() -> float:
            torch.autograd.backward(pull * torch.stack([w.sum() for w in problem.weights()]).sum())
            return 1.0

        return evaluate

    start = problem.snapshot()
    optimizer.step(loss_of(0.0))
    for old, new in zip(start, problem.snapshot(), strict=True):
        torch.testing.assert_close(old, new, rtol=0.0, atol=1e-12)
    optimizer.step(loss_of(1e-12))
    for pair, old, new in zip(problem.pairs, start, problem.snapshot(), strict=True):
        side = min(len(pair.B), pair.A.shape[1])
        longest = 0.5 * 0.1 * pair.scaling * (len(pair.A) * side / 3) ** 0.5
        assert float((new - old).norm()) == pytest.approx(longest)


def test_where_data_is_unknown_it_is_refused() -> None:
    with pytest.raises(ValueError, match="data: expected one of steps, reshuffling, federated"):
        create_optimizer("rac-lora", Quadratic.make().pairs, lr=0.1, data="epochs")
