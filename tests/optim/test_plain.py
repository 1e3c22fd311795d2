from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitucb.models.lora import LoRAPair
from vitucb.optim import OPTIMIZERS, create_optimizer
from vitucb.optim.plain import PlainOptimizer


def make_pairs(seed: int = 0) -> list[LoRAPair]:
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for i, (m, n, r) in enumerate([(6, 5, 2), (6, 7, 4), (6, 5, 2)]):
        A = nn.Parameter(torch.randn(r, n, generator=generator))
        B = nn.Parameter(torch.randn(m, r, generator=generator))
        pairs.append(LoRAPair(f"layer{i}", A, B, 2.0, None))
    return pairs


def factors(pairs: list[LoRAPair]) -> list[nn.Parameter]:
    return [p for pair in pairs for p in (pair.A, pair.B)]


def fill_gradients(parameters: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def values(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [p.detach().clone() for p in parameters]


def all_equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_importing_the_table_imports_no_torch() -> None:
    code = (
        "import sys, vitucb.optim; assert 'torch' not in sys.modules; assert vitucb.optim.ENTRIES"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adamw", {}),
        ("sgd", {"max_step": 0.0}),
        ("torch.optim:SGD", {}),
        ("torch.optim:Adagrad", {}),
    ],
)
def test_plain_names_equal_torch_bit_for_bit(name: str, options: dict[str, Any]) -> None:
    pairs, reference = make_pairs(), make_pairs()
    optimizer = create_optimizer(name, pairs, lr=0.01, weight_decay=0.1, **options)
    path = OPTIMIZERS.get(name, name)
    base = getattr(torch.optim, path.partition(":")[2])(
        factors(reference), lr=0.01, weight_decay=0.1
    )
    for seed in range(5):
        for parameters, stepped in ((factors(pairs), optimizer), (factors(reference), base)):
            fill_gradients(parameters, seed)
            stepped.step()
    assert all_equal(values(factors(pairs)), values(factors(reference)))


def test_how_factors_are_stepped_does_not_come_with_a_state() -> None:
    one_by_one = create_optimizer("adamw", make_pairs(), lr=0.01, foreach=False)
    together = create_optimizer("adamw", make_pairs(), lr=0.01)
    together.load_state_dict(one_by_one.state_dict())
    assert together.param_groups[0]["foreach"] is True


@pytest.mark.parametrize("told", [{}, {"foreach": False}, {"fused": True}])
def test_factors_are_stepped_together_unless_told_otherwise(told: dict[str, Any]) -> None:
    group = create_optimizer("adamw", make_pairs(), lr=0.01, **told).param_groups[0]
    assert {name: group[name] for name in ("foreach", "fused") if group[name]} == {
        name: True for name in ("foreach", "fused") if (told or {"foreach": True}).get(name)
    }


@pytest.mark.parametrize("base", ["adamw", "sgd"])
def test_lora_plus_with_ratio_one_is_the_base_bit_for_bit(base: str) -> None:
    pairs, reference = make_pairs(), make_pairs()
    plus = create_optimizer("lora-plus", pairs, lr=0.01, ratio=1.0, base=base)
    plain = create_optimizer(base, reference, lr=0.01)
    for seed in range(5):
        for parameters, stepped in ((factors(pairs), plus), (factors(reference), plain)):
            fill_gradients(parameters, seed)
            stepped.step()
    assert all_equal(values(factors(pairs)), values(factors(reference)))


def test_lora_plus_scales_lora_b_only() -> None:
    pairs = make_pairs()
    bias = nn.Parameter(torch.zeros(3))
    optimizer = create_optimizer("lora-plus", pairs, lr=0.01, ratio=16.0, other_params=[bias])
    rates = [(group["lr"], len(group["params"])) for group in optimizer.param_groups]
    assert rates == [(0.01, 3), (0.16, 3), (0.01, 1)]


def test_the_head_is_stepped_by_adamw_at_its_own_rate() -> None:
    pairs = make_pairs()
    head, reference = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    optimizer = create_optimizer("sgd", pairs, lr=0.5, other_params=[head], other_lr=0.01)
    adamw = torch.optim.AdamW([reference], lr=0.01, weight_decay=0.0)
    for seed in range(3):
        fill_gradients([*factors(pairs), head], seed)
        assert head.grad is not None
        reference.grad = head.grad.clone()
        optimizer.step()
        adamw.step()
    assert torch.equal(head, reference)


def test_non_finite_gradients_skip_the_pair_and_are_counted() -> None:
    pairs = make_pairs()
    optimizer = create_optimizer("adamw", pairs, lr=0.01)
    assert isinstance(optimizer, PlainOptimizer)
    before = values(factors(pairs))
    fill_gradients(factors(pairs), 0)
    assert pairs[1].A.grad is not None
    pairs[1].A.grad[0, 0] = torch.nan
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, values(factors(pairs)), strict=True)]
    assert moved == [True, True, False, False, True, True]
    assert optimizer.nonfinite_skips == 1
    assert pairs[1].A not in optimizer.state


@pytest.mark.parametrize("name", ["adamw", "sgd", "lora-plus"])
def test_the_step_that_asks_nothing_skips_the_same_pairs(name: str) -> None:
    stepped = []
    for sync_free in (False, True):
        pairs, head = make_pairs(), nn.Parameter(torch.ones(4))
        optimizer = create_optimizer(name, pairs, lr=0.01, other_params=[head])
        assert isinstance(optimizer, PlainOptimizer)
        optimizer.sync_free = sync_free
        for seed in range(3):
            fill_gradients([*factors(pairs), head], seed)
            grad = pairs[1].A.grad
            assert grad is not None
            if seed == 2:
                grad[0, 0] = torch.nan
            optimizer.step()
            assert pairs[1].A.grad is grad
        assert optimizer.nonfinite_skips == 1
        moments = [
            v for p in (pairs[1].A, pairs[1].B) for v in optimizer.state[p].values() if v.dim()
        ]
        stepped.append([*values([*factors(pairs), head]), *moments])
    for own, other in zip(*stepped, strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("how", ["state_dict", "deepcopy", "pickle"])
def test_a_copy_continues_bit_for_bit(how: str) -> None:
    pairs = make_pairs()
    head = nn.Parameter(torch.ones(4))
    everything = [*factors(pairs), head]
    optimizer = create_optimizer("lora-plus", pairs, lr=0.01, other_params=[head])
    fill_gradients(everything, 0)
    optimizer.step()
    if how == "state_dict":
        other_pairs = make_pairs()
        others = [*factors(other_pairs), nn.Parameter(torch.ones(4))]
        other = create_optimizer("lora-plus", other_pairs, lr=1.0, other_params=others[-1:])
        for new, old in zip(others, everything, strict=True):
            new.data.copy_(old.data)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    else:
        original = (optimizer, pairs)
        pickled = how == "pickle"
        other, other_pairs = (
            pickle.loads(pickle.dumps(original)) if pickled else copy.deepcopy(original)
        )
        others = [*factors(other_pairs), *other.param_groups[-1]["params"]]
    for seed in (1, 2):
        for parameters, stepped in ((everything, optimizer), (others, other)):
            fill_gradients(parameters, seed)
            stepped.step()
    assert all_equal(values(everything), values(others))


def test_schedulers_reach_every_group() -> None:
    optimizer = create_optimizer(
        "sgd", make_pairs(), lr=1.0, other_params=[nn.Parameter(torch.ones(2))]
    )
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


def test_the_closure_runs_with_gradients_enabled() -> None:
    pairs = make_pairs()
    optimizer = create_optimizer("sgd", pairs, lr=0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = sum(((p**2).sum() for p in factors(pairs)), torch.zeros(()))
        torch.autograd.backward(loss)
        return loss.item()

    first = optimizer.step(closure)
    second = optimizer.step(closure)
    assert first is not None
    assert second is not None
    assert second < first


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adamww", {}, "did you mean 'adamw'"),
        ("adamw", {"beta": 1}, "'adamw' has no option 'beta'; options: .*betas.*other_lr"),
        ("lora-plus", {"rattio": 1}, "no option 'rattio'"),
        ("lora-plus", {"ratio": -1.0}, "ratio -1.0 must be a positive number"),
        ("sgd", {"max_step": -1.0}, "max_step -1.0 must not be negative; 0 is off"),
        ("torch.optim:LBFGS", {}, "LBFGS"),
        ("torch.optim:Nope", {}, "no attribute 'Nope'"),
    ],
)
def test_wrong_options_are_one_line_errors(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        create_optimizer(name, make_pairs(), lr=0.1, **options)
