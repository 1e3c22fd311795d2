"""Convergence of the chains: the 3 x 3 counterexample, contraction, estimators, merging."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, its stub forgot it
from torch.nn import Parameter

from tests.optim.problems import Quadratic, run
from vitucb.models.lora import LoRAPair
from vitucb.optim import create_optimizer
from vitucb.optim.chains.chain import Chain
from vitucb.optim.chains.draws import Draws
from vitucb.optim.chains.merging import BaseWeights, check_mergeable

# The theory is about steps of 1/L, however long.
SGD: dict[str, Any] = {"inner": "sgd", "inner_options": {"max_step": 0.0}}
TARGET = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.5, 1.0], [1.0, 0.0, 2.0]], dtype=torch.float64)
HESSIAN = torch.ones(3, 3, dtype=torch.float64)
HESSIAN[0, 0] = 10.0


class UnitDraws(Draws):
    """Fresh lora_A standard normal, larger than PEFT's."""

    def initial_factor(self, shape: Any) -> Tensor:
        return self.gaussian(shape)


def excess(name: str, options: dict[str, Any], steps: int, seed: int = 0) -> float:
    """Loss minus optimum of the 3 x 3 quadratic after rank-1 steps of size 1/L."""
    generator = torch.Generator().manual_seed(seed)
    A = Parameter(torch.randn(1, 3, generator=generator, dtype=torch.float64) / 3**0.5)
    base = Parameter(torch.zeros(3, 3, dtype=torch.float64), requires_grad=False)
    pair = LoRAPair("layer", A, Parameter(torch.zeros(3, 1, dtype=torch.float64)), 1.0, base)
    optimizer = create_optimizer(name, [pair], lr=0.1, **options)
    loss = 0.0
    for _ in range(steps):
        error = base + pair.B.detach() @ pair.A.detach() - TARGET
        loss = float(0.5 * (HESSIAN * error.square()).sum())
        G = HESSIAN * error
        pair.A.grad, pair.B.grad = pair.B.detach().mT @ G, G @ pair.A.detach().mT
        optimizer.step()
    return loss


def best_rank_one() -> float:
    """Least excess of B A alone, over many starts of alternating least squares."""
    best = float("inf")
    for seed in range(20):
        b = torch.randn(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for _ in range(300):
            a = (HESSIAN * TARGET * b[:, None]).sum(0) / (HESSIAN * b[:, None] ** 2).sum(0)
            b = (HESSIAN * TARGET * a).sum(1) / (HESSIAN * a**2).sum(1)
        best = min(best, float(0.5 * (HESSIAN * (torch.outer(b, a) - TARGET).square()).sum()))
    return best


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rac-lora", {**SGD, "inner_steps": 1}),
        ("rac-lora", {**SGD, "inner_steps": 1, "side": "right"}),
        ("bernoulli-lora", {"p": 0.5, "max_step": 0.0}),
        # In the trust region they take longer and get there too.
        ("rac-lora", {"inner": "sgd", "inner_steps": 1}),
        ("bernoulli-lora", {"p": 0.5}),
    ],
)
def test_random_sketches_reach_the_full_rank_optimum(name: str, options: dict[str, Any]) -> None:
    assert excess(name, options, 1500) < 1e-20


def test_plain_and_asymmetric_lora_stop_above_it() -> None:
    bound = best_rank_one() - 1e-6
    assert excess("sgd", {"max_step": 0.0}, 500) >= bound
    assert excess("asymmetric-lora", SGD, 500) >= bound


def test_cola_diverges_at_the_step_size_where_the_others_converge() -> None:
    options = {**SGD, "inner_steps": 50, "draws": UnitDraws(0)}
    assert not excess("cola", options, 2000) < 1e3


def test_the_loss_contracts_at_the_predicted_rate() -> None:
    # gamma = 1/L, mu = 1, c = r/m = 1/3: E f_T - f* <= (1 - 0.1 / 3)^T (f_0 - f*).
    steps = 60
    start = float(0.5 * (HESSIAN * TARGET.square()).sum())
    runs = [
        excess("rac-lora", {**SGD, "inner_steps": 1, "seed": seed}, steps + 1) for seed in range(20)
    ]
    assert sum(runs) / 20 <= start * (1.0 - 0.1 / 3.0) ** steps


@pytest.mark.parametrize("estimator", ["page", "mvr", "marina", "ef21"])
@pytest.mark.parametrize("coin", ["layer", "model"])
def test_estimators_with_exact_gradients_reach_the_optimum(estimator: str, coin: str) -> None:
    problem = Quadratic.make(shapes=((4, 5, 2), (3, 4, 2)))
    optimizer = create_optimizer(
        "bernoulli-lora", problem.pairs, lr=0.3, estimator=estimator, coin=coin, k=10,
        other_params=[problem.head], other_lr=0.1,
    )  # fmt: skip
    before = problem.closure()
    run(problem, optimizer, 60)
    assert problem.closure() < 0.2 * before
    assert float(problem.head.detach().abs().max()) < 0.1


def test_an_estimator_without_a_closure_says_what_to_do() -> None:
    problem = Quadratic.make()
    optimizer = create_optimizer("bernoulli-lora", problem.pairs, lr=0.1, estimator="mvr")
    with pytest.raises(ValueError, match=r"call step\(closure\)"):
        optimizer.step()


def test_full_gradients_leave_the_base_frozen() -> None:
    problem = Quadratic.make()
    optimizer = create_optimizer("bernoulli-lora", problem.pairs, lr=0.1, estimator="page")
    run(problem, optimizer, 2)
    for pair in problem.pairs:
        assert pair.base is not None
        assert not pair.base.requires_grad
        assert pair.base.grad is None


def test_factors_are_merged_when_a_chain_begins() -> None:
    problem = Quadratic.make()
    before = problem.snapshot()
    create_optimizer("rac-lora", problem.pairs, lr=0.1)
    for old, new in zip(before, problem.snapshot(), strict=True):
        torch.testing.assert_close(old, new, rtol=0.0, atol=1e-12)


def test_small_merges_into_bfloat16_are_not_lost() -> None:
    base = Parameter(torch.full((4, 4), 0.05, dtype=torch.bfloat16), requires_grad=False)
    factors = (Parameter(torch.zeros(1, 4)), Parameter(torch.zeros(4, 1)))
    weights = BaseWeights([LoRAPair("layer", *factors, 1.0, base)])
    for _ in range(100):
        weights.add(0, torch.full((4, 4), 1e-5))
    torch.testing.assert_close(weights.delta[0], torch.full((4, 4), 1e-3), rtol=1e-3, atol=0.0)
    assert float((base.float() - 0.051).abs().max()) < 2e-4


def test_the_saved_delta_reproduces_the_model() -> None:
    problem, fresh = Quadratic.make(), Quadratic.make()
    optimizer = create_optimizer("cola", problem.pairs, lr=0.02, inner_steps=2)
    run(problem, optimizer, 5)
    other = create_optimizer("cola", fresh.pairs, lr=0.02, inner_steps=2, seed=9)
    other.load_state_dict(optimizer.state_dict())
    for a, b in zip(problem.snapshot(), fresh.snapshot(), strict=True):
        assert torch.equal(a, b)


def test_a_base_that_cannot_take_a_merge_is_refused() -> None:
    A, B = Parameter(torch.zeros(2, 5)), Parameter(torch.zeros(4, 2))
    for base, message in (
        (None, "no base weight"),
        (torch.zeros(4, 5, dtype=torch.int8), "quantised"),
        (torch.zeros(5, 4), "fan_in_fan_out"),
    ):
        with pytest.raises(ValueError, match=message):
            create_optimizer("rac-lora", [LoRAPair("layer", A, B, 1.0, base)], lr=0.1)


class FakeLayer(nn.Module):
    """The parts of a PEFT layer that `check_mergeable` reads."""

    def __init__(self, **flags: Any) -> None:
        super().__init__()
        self.lora_A = nn.ModuleDict({"default": nn.Linear(5, 2)})
        self.lora_dropout = nn.ModuleDict({"default": nn.Dropout(flags.pop("dropout", 0.0))})
        for name, value in flags.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"use_dora": {"default": True}}, "use_dora"),
        ({"lora_bias": {"default": True}}, "lora_bias"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"dropout": 0.1}, "lora_dropout"),
    ],
)
def test_layers_whose_merge_would_change_the_function_are_refused(
    flags: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        check_mergeable(FakeLayer(**flags))
    check_mergeable(FakeLayer())


def test_clients_average_the_trained_factor() -> None:
    problem = Quadratic.make()
    optimizer = create_optimizer("rac-lora", problem.pairs, lr=0.1, inner="sgd")
    assert isinstance(optimizer, Chain)
    twin = Quadratic.make()
    alone = create_optimizer("rac-lora", twin.pairs, lr=0.1, inner="sgd", inner_steps=2)
    run(twin, alone, 2)
    # Clients with the same data do what one would.
    optimizer.federated_round([[problem.closure] * 2] * 3)  # type: ignore[attr-defined]  # RACLoRA's own
    for a, b in zip(problem.snapshot(), twin.snapshot(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-12)


def test_ranks_average_through_torch_distributed(tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        problem, twin = Quadratic.make(), Quadratic.make()
        options: dict[str, Any] = {"estimator": "marina", "seed": 3}
        ranks = create_optimizer(
            "bernoulli-lora", problem.pairs, lr=0.1, distributed=True, **options
        )
        alone = create_optimizer("bernoulli-lora", twin.pairs, lr=0.1, **options)
        run(problem, ranks, 4)
        run(twin, alone, 4)
        for a, b in zip(problem.snapshot(), twin.snapshot(), strict=True):
            assert torch.equal(a, b)
    finally:
        torch.distributed.destroy_process_group()


RANKED: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ("sgd", "gd", "page", "mvr", "qgd", "marina", "ef21")),
    ("subgradient", {"step_size": "polyak"}),
]


def _play_rank(rank: int, port: int) -> None:
    """Two ranks with losses of their own end with one weight."""
    store = TCPStore("127.0.0.1", port)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    try:
        for name, options in RANKED:
            problem = Quadratic.make()
            problem.targets = [target + rank for target in problem.targets]
            optimizer = create_optimizer(
                "bernoulli-lora", problem.pairs, lr=0.05, estimator=name, distributed=True,
                other_params=[problem.head], other_lr=0.01, **options,
            )  # fmt: skip
            run(problem, optimizer, 4)
            mine = torch.cat([w.flatten() for w in (*problem.snapshot(), problem.head.detach())])
            both = [torch.empty_like(mine) for _ in range(2)]
            torch.distributed.all_gather(both, mine)
            torch.testing.assert_close(both[0], both[1], msg=name)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_with_losses_of_their_own_stay_together() -> None:
    # The store outlives both ranks. In a file it is removed by the last one, and a rank that ends
    # beside it can look for that file for ever.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    spawn = multiprocessing.get_context("spawn")
    # Results, not exit codes: PyTorch's threads have aborted an interpreter that was done.
    with ProcessPoolExecutor(2, mp_context=spawn) as ranks:
        for each in [ranks.submit(_play_rank, rank, store.port) for rank in range(2)]:
            each.result()
