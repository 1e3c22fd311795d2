"""The optimizers on a real PEFT model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vitucb.models.backbone import create_backbone
from vitucb.models.lora import add_lora
from vitucb.optim import create_optimizer
from vitucb.optim.chains.chain import Chain


def make_model() -> nn.Module:
    backbone = create_backbone("vitucb-nano").requires_grad_(False)
    model: nn.Module = add_lora(backbone, rank=2, targets=("qkv", "fc1"), blocks=(0, -1))
    return model


def loss_of(model: nn.Module) -> torch.Tensor:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    output: torch.Tensor = model(images)
    return output.square().mean()


@pytest.mark.parametrize("name", ["lora-rite", "lora-pro", "bernoulli-lora"])
def test_the_loss_of_a_peft_model_falls(name: str) -> None:
    model = make_model()
    optimizer = create_optimizer(name, model, lr=1e-3 if name != "bernoulli-lora" else 1e-1)
    first = loss_of(model).item()
    for _ in range(5):
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(model))
        optimizer.step()
    assert loss_of(model).item() < first


def test_a_merge_leaves_the_output_of_a_peft_model_as_it_was() -> None:
    model = make_model()
    optimizer = create_optimizer("cola", model, lr=1e-2)
    assert isinstance(optimizer, Chain)
    for _ in range(3):
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(model))
        optimizer.step()
    before = loss_of(model).item()
    optimizer.end_block()
    assert loss_of(model).item() == pytest.approx(before, rel=1e-5)


def test_full_gradients_of_a_peft_model_come_from_closures() -> None:
    model = make_model()
    optimizer = create_optimizer("bernoulli-lora", model, lr=1e-1, estimator="mvr")

    def closure() -> float:
        optimizer.zero_grad()
        loss = loss_of(model)
        torch.autograd.backward(loss)
        return loss.item()

    first = optimizer.step(closure)
    for _ in range(4):
        last = optimizer.step(closure)
    assert first is not None
    assert last is not None
    assert last < first
