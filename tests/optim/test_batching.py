"""A step is a fixed number of tensor operations, without reading data back to the host."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from tests.optim.problems import Quadratic, run
from vitucb.optim import LoRAOptimizer, create_optimizer

CASES: list[tuple[str, dict[str, Any]]] = [
    ("lora-pro", {}),
    ("lora-pro", {"moments": "full"}),
    ("lora-rite", {}),
    ("lora-muon", {}),
    ("lora-pro", {"base": "sgd"}),
    ("scaled-gd", {}),
    ("scaled-adam", {}),
    ("lora-fa", {}),
    ("lamb", {}),
]


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's base is untyped
    """Names of the operations that are not views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's base is untyped
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not func.is_view:
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def operations_of(optimizer: Optimizer, problem: Quadratic) -> list[str]:
    run(problem, optimizer, 2)
    problem.closure()
    operations = Operations()
    with operations:
        optimizer.step()
    return operations.names


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_number_of_operations_does_not_depend_on_depth(
    name: str, options: dict[str, Any]
) -> None:
    block = ((6, 5, 2), (5, 5, 2), (9, 5, 2), (5, 9, 2))
    counts = []
    for depth in (1, 4):
        problem = Quadratic.make(shapes=block * depth)
        counts.append(
            len(operations_of(create_optimizer(name, problem.pairs, lr=0.01, **options), problem))
        )
    assert counts[0] == counts[1]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_sync_free_step_reads_nothing_back(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a processor Adam may ask whether one bias correction serves all, and the trust region
    # whether norms alone settle it; elsewhere they do not.
    monkeypatch.setattr("vitucb.optim.batched.adam._is_uniform", lambda step: False)
    monkeypatch.setattr("vitucb.optim.batched.trust_region.is_surely_within", lambda *_: False)
    problem = Quadratic.make()
    optimizer = create_optimizer(name, problem.pairs, lr=0.01, **options)
    assert isinstance(optimizer, LoRAOptimizer)
    optimizer.sync_free = True
    reads = [n for n in operations_of(optimizer, problem) if "_local_scalar_dense" in n]
    assert reads == []


def test_the_fused_and_the_general_adam_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    fused, general = Quadratic.make(), Quadratic.make()
    run(fused, create_optimizer("scaled-adam", fused.pairs, lr=0.01, weight_decay=0.1), 5)
    monkeypatch.setattr("vitucb.optim.batched.adam._is_uniform", lambda step: False)
    run(general, create_optimizer("scaled-adam", general.pairs, lr=0.01, weight_decay=0.1), 5)
    for a, b in zip(fused.values(), general.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-13)


class OwnOptimizer(LoRAOptimizer):
    """An optimizer of a user: sign descent, in a few lines."""

    def __init__(self, pairs: Any, lr: float, other_params: Any = ()) -> None:
        super().__init__(pairs, lr, {}, other_params)

    def update(self, group: dict[str, Any], works: list[Any]) -> None:
        for work in works:
            for x, g in zip(work.x, work.g, strict=True):
                x.sub_(g.sign(), alpha=group["lr"])


def test_an_own_optimizer_comes_by_import_path() -> None:
    problem = Quadratic.make()
    optimizer = create_optimizer(
        f"{__name__}:OwnOptimizer", problem.pairs, lr=0.01, other_params=[problem.head]
    )
    before = problem.values()
    run(problem, optimizer, 1)
    for old, new in zip(before[:-1], problem.values()[:-1], strict=True):
        assert float((old - new).abs().max()) == pytest.approx(0.01)
