"""DoRA by functions of our own: outputs and gradients of PEFT's layers, from one backward."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor, nn
from torch.nn.functional import linear

from vitucb.learning.gradient_features import LoRAGradientFeatures
from vitucb.models.dora_layers import with_magnitude_in
from vitucb.models.lora import LoRAPair, add_lora, lora_pairs
from vitucb.models.lora_layers import FastAdapters, find_adapted_layers
from vitucb.models.reward_model import RewardModel


class OneLayer(nn.Module):
    """A layer on tokens (b, t, in) and one score (b,) of what it gives."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, outputs, bias=bias)

    def forward(self, tokens: Tensor) -> Tensor:
        score: Tensor = torch.sin(self.fc(tokens)).sum(dim=(1, 2))
        return score


def disturb(model: nn.Module, spread: float = 0.3) -> None:
    """B and the magnitudes away from their start."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if "lora_B" in name:
                parameter.normal_(0.0, spread, generator=generator)
            if "magnitude" in name:
                noise = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.mul_(noise.to(parameter) + 0.5)


def one_layer(inputs: int, outputs: int, rank: int, bias: bool, alpha: float) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(inputs + 10 * outputs)
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["fc"], use_dora=True)
        model: nn.Module = get_peft_model(OneLayer(inputs, outputs, bias), config)
    disturb(model)
    return model


def make_model(dtype: torch.dtype = torch.float64, **lora: Any) -> RewardModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        backbone = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_classes=0
        )
    model = RewardModel(add_lora(backbone, rank=2, use_dora=True, **lora), 24).to(dtype)
    disturb(model)
    return model.eval()


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def trained_gradients(model: nn.Module, scores: Tensor) -> dict[str, Tensor]:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    weight = torch.linspace(-1, 1, scores.numel()).view_as(scores).to(scores)
    grads = torch.autograd.grad(scores, list(parameters.values()), weight, materialize_grads=True)
    return dict(zip(parameters, grads, strict=True))


def per_arm(model: nn.Module, images: Tensor, pairs: list[LoRAPair]) -> Tensor:
    factors = [factor for pair in pairs for factor in (pair.A, pair.B)]
    rows = [torch.autograd.grad(model(image[None])[0], factors) for image in images]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


def relative(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1)).max())


@settings(max_examples=25, deadline=None)
@given(
    inputs=st.integers(1, 7),
    outputs=st.integers(1, 7),
    rank=st.integers(1, 4),
    bias=st.booleans(),
    alpha=st.floats(0.1, 20.0),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    is_double=st.booleans(),
)
def test_a_layer_of_any_shape_is_pefts(
    inputs: int,
    outputs: int,
    rank: int,
    bias: bool,
    alpha: float,
    shape: tuple[int, int],
    is_double: bool,
) -> None:
    dtype, tolerance = (torch.float64, 1e-10) if is_double else (torch.float32, 1e-3)
    model = one_layer(inputs, outputs, rank, bias, alpha).to(dtype)
    pairs = lora_pairs(model)
    x = noise(*shape, inputs, dtype=dtype).requires_grad_(True)
    fast = FastAdapters(model, pairs)
    y, expected = fast(model, x), model(x)
    assert fast.is_fast
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)
    found, own = trained_gradients(model, y), trained_gradients(model, expected)
    assert sum("magnitude" in name for name in own) == 1
    torch.testing.assert_close(found, own, rtol=tolerance, atol=tolerance)
    of_x = [torch.autograd.grad(scores.sum(), x)[0] for scores in (fast(model, x), model(x))]
    torch.testing.assert_close(of_x[0], of_x[1], rtol=tolerance, atol=tolerance)
    features = LoRAGradientFeatures(model)
    phi = features(x.detach())[1]
    assert features.is_fast
    exact = per_arm(model, x.detach(), pairs)
    torch.testing.assert_close(phi, exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize(
    "lora", [{}, {"targets": ["proj", "fc1"]}, {"blocks": [1], "init": "pissa"}], ids=str
)
def test_a_vit_trains_as_with_peft(
    dtype: torch.dtype, tolerance: float, lora: dict[str, Any]
) -> None:
    model, images = make_model(dtype, **lora).train(), noise(3, 3, 32, 32, dtype=dtype)
    fast = FastAdapters(model, lora_pairs(model))
    for _ in range(2):
        scores = fast(model, images)
        found, expected = (trained_gradients(model, y) for y in (scores, model(images)))
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(scores, model(images), rtol=tolerance, atol=tolerance)
    assert fast.is_fast


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_features_of_a_vit_are_those_of_one_backward_per_arm(
    dtype: torch.dtype, tolerance: float
) -> None:
    model, images = make_model(dtype), noise(5, 3, 32, 32, dtype=dtype)
    features = LoRAGradientFeatures(model)
    scores, phi = features(images)
    assert features.is_fast
    assert features.dim == sum(pair.A.numel() + pair.B.numel() for pair in features.pairs)
    assert relative(phi, per_arm(model, images, features.pairs)) < tolerance
    torch.testing.assert_close(scores, model(images).detach(), rtol=tolerance, atol=tolerance)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_norms_are_those_of_the_weights_as_they_are() -> None:
    model, images = make_model(), noise(2, 3, 32, 32)
    features, fast = LoRAGradientFeatures(model), FastAdapters(model, lora_pairs(model))
    for change in range(3):
        for pair in features.pairs:
            pair.B.data = pair.B.data * 2 if change == 1 else pair.B.data  # as averages are put in
            pair.A.data[0] += change  # no version of A tells of it
        assert relative(features(images)[1], per_arm(model, images, features.pairs)) < 1e-10
        torch.testing.assert_close(fast(model, images), model(images))
    assert features.is_fast
    assert fast.is_fast


def test_frozen_magnitudes_get_no_gradient() -> None:
    model, images = make_model(), noise(2, 3, 32, 32)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name and "magnitude" not in name)
    found = trained_gradients(model, FastAdapters(model, lora_pairs(model))(model, images))
    torch.testing.assert_close(found, trained_gradients(model, model(images)), rtol=1e-10, atol=0)


def test_a_weight_with_adapters_and_magnitudes_in_it_gives_the_output_of_the_layer() -> None:
    model = make_model()
    layers = find_adapted_layers(model, lora_pairs(model))
    assert len(layers) == 8
    for layer in layers:
        x = noise(2, 3, layer.base.in_features)
        pair = layer.pair
        merged = with_magnitude_in(layer.base.weight + pair.scaling * pair.B @ pair.A, layer)
        torch.testing.assert_close(linear(x, merged, layer.base.bias), layer.module(x))


def test_bfloat16_products_are_near() -> None:
    model, images = make_model(torch.float32), noise(3, 3, 32, 32, dtype=torch.float32)
    fast = FastAdapters(model, lora_pairs(model), torch.bfloat16)
    found, expected = (trained_gradients(model, y) for y in (fast(model, images), model(images)))
    assert fast.is_fast
    one, two = (torch.cat([g.flatten() for g in x.values()]) for x in (expected, found))
    assert 0 < float((one - two).norm() / one.norm()) < 0.03


class WithNormsOnTheWay(DoraLinearLayer):  # type: ignore[misc]  # PEFT is untyped
    """DoRA whose norms get their gradient: the same outputs, other gradients."""

    def forward(
        self, x: Tensor, *, lora_A: Any, lora_B: Any, scaling: float, **rest: Any
    ) -> Tensor:
        base = rest["base_layer"]
        weight = base.weight + scaling * lora_B.weight @ lora_A.weight
        gain = self.weight / weight.norm(dim=1)
        y: Tensor = linear(x, weight * gain[:, None]) - linear(x, base.weight)
        return y


class Other(DoraLinearVariant):  # type: ignore[misc]  # PEFT is untyped
    """A variant that is not known here."""


def test_other_gradients_of_the_norms_are_found_out_and_left_to_peft() -> None:
    model, images = make_model(), noise(3, 3, 32, 32)
    for module in model.modules():
        if isinstance(module, DoraLinearLayer):
            module.__class__ = WithNormsOnTheWay
    pairs = lora_pairs(model)
    features, fast = LoRAGradientFeatures(model), FastAdapters(model, pairs)
    expected = trained_gradients(model, model(images))
    found = trained_gradients(model, fast(model, images))
    assert relative(features(images)[1], per_arm(model, images, pairs)) < 1e-10
    assert not features.is_fast
    assert not fast.is_fast
    torch.testing.assert_close(found, expected)


def test_other_variants_are_left_to_peft_even_where_b_is_zero() -> None:
    model, images = make_model(), noise(2, 3, 32, 32)
    for module in model.modules():
        for name in getattr(module, "lora_variant", None) or {}:
            module.lora_variant[name] = Other()  # type: ignore[operator]  # a dict
    for pair in lora_pairs(model):
        nn.init.zeros_(pair.B)
    features = LoRAGradientFeatures(model)
    features(images)
    assert not features.is_fast
    assert not FastAdapters(model, lora_pairs(model)).is_fast
