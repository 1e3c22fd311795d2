"""Training through functions of our own gives what PEFT's layers give."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from vitucb.learning.gradient_features import LoRAGradientFeatures
from vitucb.models.lora import add_lora, lora_pairs
from vitucb.models.lora_layers import FastAdapters
from vitucb.models.reward_model import RewardModel


def make_model(dtype: torch.dtype = torch.float64, **lora: Any) -> RewardModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        backbone = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_classes=0
        )
    model = RewardModel(add_lora(backbone, rank=2, **lora), 24).to(dtype)
    generator = torch.Generator().manual_seed(3)
    for pair in lora_pairs(model):
        with torch.no_grad():
            pair.B.normal_(0.0, 0.3, generator=generator)
    return model


def make_images(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=dtype)


def gradients(model: nn.Module, features: Tensor) -> list[Tensor]:
    model.zero_grad(set_to_none=True)
    torch.autograd.backward(features.square().mul(torch.linspace(0, 1, 24)).sum())
    return [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
@pytest.mark.parametrize("lora", [{}, {"targets": ["proj", "fc1"]}, {"blocks": [1]}], ids=str)
def test_outputs_and_gradients_are_those_of_peft(
    dtype: torch.dtype, tolerance: float, lora: dict[str, Any]
) -> None:
    model, images = make_model(dtype, **lora), make_images(3, dtype)
    fast = FastAdapters(model, lora_pairs(model))
    expected = gradients(model, model.features(images))
    for _ in range(2):
        features = fast(model.features, images)
        found = gradients(model, features)
        assert len(found) == len(expected)
        for one, two in zip(found, expected, strict=True):
            torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(features, model.features(images), rtol=tolerance, atol=tolerance)
    assert fast.is_fast
    assert not any("forward" in vars(module) for module in model.modules())


def test_frozen_factors_get_no_gradient() -> None:
    model, images = make_model(), make_images(2)
    for pair in lora_pairs(model):
        pair.A.requires_grad_(False)
    expected = gradients(model, model.features(images))
    found = gradients(model, FastAdapters(model, lora_pairs(model))(model.features, images))
    assert all(pair.A.grad is None for pair in lora_pairs(model))
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)


def test_factors_changed_between_forward_and_backward_are_noticed() -> None:
    model, images = make_model(), make_images(2)
    features = FastAdapters(model, lora_pairs(model))(model.features, images)
    with torch.no_grad():
        lora_pairs(model)[0].B.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradients(model, features)


class Scaled(nn.Module):
    """Calls its adapted layer as PEFT does not expect it: another gain."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(5, 24).double()
        self.lora_A = nn.ModuleDict({"default": nn.Linear(5, 2, bias=False).double()})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 24, bias=False).double()})
        self.scaling = {"default": 2.0}

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base_layer(x) + 3.0 * self.lora_B["default"](self.lora_A["default"](x))
        return y


def test_a_layer_that_computes_something_else_is_run_as_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Sequential(Scaled())
    x = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fast = FastAdapters(layer, lora_pairs(layer))
    with caplog.at_level(logging.WARNING):
        first, second = fast(layer, x), fast(layer, x)
    assert torch.equal(first, layer(x))
    assert torch.equal(second, layer(x))
    assert len(caplog.records) == 1


def test_bfloat16_products_are_near_and_keep_what_adapters_add() -> None:
    model, images = make_model(torch.float32), make_images(3, torch.float32)
    expected = gradients(model, model.features(images))
    fast = FastAdapters(model, lora_pairs(model), torch.bfloat16)
    features = fast(model.features, images)
    found = gradients(model, features)
    assert fast.is_fast
    assert features.dtype == torch.float32
    one, two = (torch.cat([g.flatten() for g in grads]) for grads in (expected, found))
    assert 0 < float((one - two).norm() / one.norm()) < 0.03
    phi = LoRAGradientFeatures(model.eval())(images)[1]
    low = LoRAGradientFeatures(model, precision=torch.bfloat16)(images)[1]
    assert 0 < float((low - phi).norm() / phi.norm()) < 0.03
