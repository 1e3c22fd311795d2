"""Optimizers where others were reported to go wrong: see docs/fault_reports.md."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import Parameter

from vitucb.models.lora import LoRAPair
from vitucb.optim import OPTIMIZERS, create_optimizer


def pair(dtype: torch.dtype = torch.float32) -> LoRAPair:
    draw = torch.Generator().manual_seed(0)
    a, b, w = (torch.randn(shape, generator=draw).to(dtype) for shape in ((2, 6), (5, 2), (5, 6)))
    return LoRAPair("layer", Parameter(a), Parameter(b), 1.0, w)


@pytest.mark.parametrize(
    "name", ["adamw", "sgd", "lora-plus", "lora-pro", "lora-rite", "scaled-adam", "scaled-gd"]
)
def test_weights_of_two_types_decay_once_each(name: str) -> None:
    def decayed(*dtypes: torch.dtype) -> list[float]:
        pairs = [pair(dtype) for dtype in dtypes]
        before = [p.A.detach().clone() for p in pairs]
        optimizer = create_optimizer(name, pairs, lr=0.1, weight_decay=0.1)
        for each in pairs:
            each.A.grad, each.B.grad = torch.zeros_like(each.A), torch.zeros_like(each.B)
        optimizer.step()
        ratios = zip(pairs, before, strict=True)
        return [float((p.A.detach() / old).double().mean()) for p, old in ratios]

    (alone,) = decayed(torch.float32)
    assert alone < 1
    assert decayed(torch.float32, torch.float64) == pytest.approx([alone] * 2, rel=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_cycle_of_rates_goes_on_where_it_was_after_a_load(name: str) -> None:
    def built() -> tuple[LoRAPair, torch.optim.Optimizer, torch.optim.lr_scheduler.OneCycleLR]:
        layer = pair()
        optimizer = create_optimizer(name, [layer], lr=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=12)
        return layer, optimizer, schedule

    def steps(layer: LoRAPair, optimizer: torch.optim.Optimizer, schedule: object) -> None:
        assert isinstance(schedule, torch.optim.lr_scheduler.OneCycleLR)
        for _ in range(4):
            layer.A.grad, layer.B.grad = torch.full_like(layer.A, 0.1), torch.ones_like(layer.B)
            optimizer.step()
            schedule.step()

    layer, optimizer, schedule = built()
    steps(layer, optimizer, schedule)
    states = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
    weights = layer.A.detach().clone(), layer.B.detach().clone()
    base = None if layer.base is None else layer.base.clone()
    steps(layer, optimizer, schedule)
    again, other, cycle = built()
    with torch.no_grad():
        again.A.copy_(weights[0])
        again.B.copy_(weights[1])
        if again.base is not None and base is not None:
            again.base.copy_(base)
    other.load_state_dict(states[0])
    cycle.load_state_dict(states[1])
    steps(again, other, cycle)
    assert [g["lr"] for g in other.param_groups] == [g["lr"] for g in optimizer.param_groups]
    assert torch.equal(again.A, layer.A)
    assert torch.equal(again.B, layer.B)
