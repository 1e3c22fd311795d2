"""What a step leaves out stays as it was; what a state says is believed only where it belongs."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from tests.optim.problems import Quadratic, run
from vitucb.models.lora import LoRAPair
from vitucb.optim import create_optimizer
from vitucb.optim.batched.lora_optimizer import LoRAOptimizer

RULES: list[tuple[str, dict[str, Any]]] = [
    ("scaled-adam", {}),
    ("lamb", {}),
    ("lora-fa", {}),
    ("lora-pro", {"decay": "full", "weight_decay": 0.1}),
    ("lora-rite", {}),
    ("lora-muon", {}),
]


def state_of(optimizer: torch.optim.Optimizer, parameter: Parameter) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in optimizer.state[parameter].items()}


@pytest.mark.parametrize("sync_free", [False, True])
@pytest.mark.parametrize(("name", "options"), RULES)
def test_a_pair_that_is_left_out_right_after_a_load_keeps_its_state(
    name: str, options: dict[str, Any], sync_free: bool
) -> None:
    problem = Quadratic.make()
    optimizer = create_optimizer(name, problem.pairs, lr=0.02, **options)
    assert isinstance(optimizer, LoRAOptimizer)
    run(problem, optimizer, 3)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.sync_free = sync_free
    problem.closure()
    out = problem.pairs[1]
    assert out.B.grad is not None
    out.B.grad[0, 0] = math.nan
    before, values = state_of(optimizer, out.B), out.B.detach().clone()
    optimizer.step()
    assert torch.equal(out.B, values)
    after = state_of(optimizer, out.B)
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.equal(after[key], value), key


@pytest.mark.parametrize("estimator", ["page", "mvr", "marina", "ef21", "qgd"])
@pytest.mark.parametrize("first", [0, 3])
def test_one_gradient_that_is_not_finite_costs_one_step_of_one_layer(
    estimator: str, first: int
) -> None:
    problem = Quadratic.make()
    optimizer: Any = create_optimizer(
        "bernoulli-lora", problem.pairs, lr=0.05, estimator=estimator, q=0.1
    )

    def broken() -> float:
        loss = problem.closure()
        base = problem.pairs[2].base
        assert base is not None
        assert base.grad is not None
        base.grad[0, 0] = math.nan
        return loss

    run(problem, optimizer, first)
    before = problem.snapshot()
    optimizer.step(broken)
    moved = [bool((a != b).any()) for a, b in zip(problem.snapshot(), before, strict=True)]
    assert moved == [True, True, False, True]
    assert optimizer.nonfinite_skips == 1
    middle = problem.snapshot()[2]
    run(problem, optimizer, 5)
    assert optimizer.nonfinite_skips == 1
    assert bool((problem.snapshot()[2] != middle).any())


def test_the_state_of_a_chain_is_refused_on_weights_that_have_its_merges_already() -> None:
    problem = Quadratic.make()
    optimizer = create_optimizer("rac-lora", problem.pairs, lr=0.1, inner="sgd", inner_steps=2)
    run(problem, optimizer, 4)
    again = create_optimizer("rac-lora", problem.pairs, lr=0.1, inner="sgd", inner_steps=2)
    with pytest.raises(ValueError, match="'layer0': the base weight is not the one"):
        again.load_state_dict(optimizer.state_dict())
    fresh = Quadratic.make()
    third = create_optimizer("rac-lora", fresh.pairs, lr=0.1, inner="sgd", inner_steps=2)
    third.load_state_dict(optimizer.state_dict())
    for a, b in zip(problem.snapshot(), fresh.snapshot(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("estimator", "options"), [("page", {"q": 1e-6}), ("mvr", {"b": 1e-6})])
def test_estimates_from_exact_gradients_are_exact_beside_a_head_that_is_trained(
    estimator: str, options: dict[str, Any]
) -> None:
    problem = Quadratic.make()

    def closure() -> float:
        for parameter in problem.parameters():
            parameter.grad = None
        scale = problem.head.square().mean()
        errors = zip(problem.weights(), problem.targets, strict=True)
        loss = sum((0.5 * scale * (w - t).square().sum() for w, t in errors), torch.zeros(()))
        torch.autograd.backward(loss)
        return loss.item()

    optimizer: Any = create_optimizer(
        "bernoulli-lora", problem.pairs, lr=0.05, estimator=estimator, other_lr=0.02,
        other_params=[problem.head], **options,
    )  # fmt: skip
    for step in range(6):
        exact, _ = optimizer.full_gradients(closure)
        optimizer.step(closure)
        if step == 3:  # the point of the step before is part of the state
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for found, expected in zip(optimizer.estimates[0], exact, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_polyaks_step_knows_the_loss_of_all_clients() -> None:
    def moved(order: tuple[float, ...]) -> float:
        problem = Quadratic.make()

        def client(scale: float) -> Any:
            def closure() -> float:
                loss = problem.closure()
                for pair in problem.pairs:
                    assert pair.base is not None
                    assert pair.base.grad is not None
                    pair.base.grad *= scale
                return scale * loss

            return closure

        optimizer: Any = create_optimizer(
            "bernoulli-lora", problem.pairs, lr=1.0, estimator="subgradient", step_size="polyak",
            max_step=0.0, seed=1,
        )  # fmt: skip
        before = problem.snapshot()
        optimizer.step(clients=[client(scale) for scale in order])
        pairs = zip(problem.snapshot(), before, strict=True)
        return float(sum((a - b).square().sum() for a, b in pairs))

    assert moved((1.0, 100.0)) == pytest.approx(moved((100.0, 1.0)))


def test_a_federated_round_keeps_what_the_block_had_learnt() -> None:
    problem = Quadratic.make()
    optimizer: Any = create_optimizer("rac-lora", problem.pairs, lr=0.1, inner="sgd")
    run(problem, optimizer, 3)
    before = problem.snapshot()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.federated_round([[problem.closure]])
    for a, b in zip(problem.snapshot(), before, strict=True):
        torch.testing.assert_close(a, b)


def test_pairs_added_later_are_checked_like_the_first() -> None:
    problem = Quadratic.make()
    optimizer = create_optimizer("lora-rite", problem.pairs[:2], lr=1e-3)
    assert isinstance(optimizer, LoRAOptimizer)
    for options, message in (
        ({"lr": -1.0}, "lr -1.0 must not be negative"),
        ({"betas": (0.9, 1.5)}, "betas"),
        ({"lrr": 3.0}, "lrr is no option; choose from average, balance"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.add_pairs(problem.pairs[2:], **options)
    optimizer.add_pairs(problem.pairs[2:], lr=1e-2)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-2]


def test_what_no_rule_can_step_is_refused() -> None:
    one, two = Quadratic.make().pairs[:2]
    tied = LoRAPair("tied", one.A, two.B, 1.0, None)
    with pytest.raises(ValueError, match="'layer0' and 'tied' share a factor"):
        create_optimizer("lora-rite", [one, tied], lr=1e-3)
    conv = LoRAPair("conv", Parameter(torch.zeros(2, 3, 3, 3)), two.B, 1.0, None)
    with pytest.raises(ValueError, match=r"'conv': lora_A .* are no matrices"):
        create_optimizer("scaled-adam", [conv], lr=1e-3)


def test_a_decay_of_more_than_all_is_refused() -> None:
    problem = Quadratic.make()
    optimizer = create_optimizer("lora-pro", problem.pairs, lr=2.0, weight_decay=0.6)
    with pytest.raises(ValueError, match=r"weight_decay 0.6 times lr 2.0 must be below 1"):
        run(problem, optimizer, 1)


def test_a_head_may_be_maximised() -> None:
    problem = Quadratic.make()
    optimizer = create_optimizer("lora-rite", problem.pairs, lr=0.0)
    optimizer.add_param_group({"params": [problem.head], "lr": 0.1, "maximize": True})
    run(problem, optimizer, 1)
    assert bool((problem.head > 1.0).all())


def test_an_endless_move_that_is_not_taken_leaves_the_factors() -> None:
    problem = Quadratic.make(dtype=torch.float16)
    optimizer = create_optimizer("sgd", problem.pairs, lr=6.0)
    problem.closure()
    for pair in problem.pairs:
        for factor in (pair.A, pair.B):
            factor.grad = torch.full_like(factor, 2e4)
    optimizer.step()
    assert all(bool(w.isfinite().all()) for w in problem.snapshot())
