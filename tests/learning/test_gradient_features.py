from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import timm
import torch
from peft.tuners.lora.layer import Linear, LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from vitucb.covariance.countsketch import CountSketch
from vitucb.learning.gradient_features import LoRAGradientFeatures
from vitucb.models.lora import LoRAPair, add_lora, lora_pairs
from vitucb.models.lora_layers import FastAdapters
from vitucb.models.reward_model import RewardModel


def make_model(
    dtype: torch.dtype = torch.float64,
    targets: Sequence[str] = ("qkv", "proj", "fc1", "fc2"),
    blocks: Sequence[int] | None = None,
) -> RewardModel:
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        backbone = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=3, num_classes=0
        )
    model = RewardModel(add_lora(backbone, rank=2, targets=targets, blocks=blocks), 24).eval()
    for pair in lora_pairs(model):
        with torch.no_grad():
            pair.B.normal_(0.0, 0.3, generator=generator)
    return model.to(dtype)


def make_images(arms: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(arms, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=dtype)


def autograd_features(model: nn.Module, images: Tensor, pairs: Sequence[LoRAPair]) -> Tensor:
    factors = [factor for pair in pairs for factor in (pair.A, pair.B)]
    rows = [torch.autograd.grad(model(image[None])[0], factors) for image in images]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


def relative(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1)).max())


@pytest.mark.parametrize(
    ("targets", "blocks"),
    [(("qkv", "proj", "fc1", "fc2"), None), (("qkv",), [0, 2]), (("fc1", "fc2"), [-1])],
)
def test_features_equal_per_sample_autograd_in_float64(
    targets: Sequence[str], blocks: Sequence[int] | None
) -> None:
    model, images = make_model(targets=targets, blocks=blocks), make_images(6)
    features = LoRAGradientFeatures(model)
    mean, phi = features(images)
    assert phi.shape == (6, features.dim)
    assert features.is_fast
    assert relative(phi, autograd_features(model, images, lora_pairs(model))) < 1e-10
    torch.testing.assert_close(mean, model(images).detach(), rtol=1e-12, atol=0)
    assert not mean.requires_grad
    assert not phi.requires_grad


def test_features_equal_per_sample_autograd_in_float32() -> None:
    model, images = make_model(torch.float32), make_images(4, torch.float32)
    _, phi = LoRAGradientFeatures(model)(images)
    assert phi.dtype == torch.float32
    assert relative(phi, autograd_features(model, images, lora_pairs(model))) < 1e-5


def test_only_the_b_half_is_alive_when_b_is_zero() -> None:
    model = make_model()
    pairs = lora_pairs(model)
    for pair in pairs:
        nn.init.zeros_(pair.B)
    _, phi = LoRAGradientFeatures(model)(make_images(2))
    size_a = pairs[0].A.numel()
    assert phi[:, :size_a].abs().max() == 0
    assert phi[:, size_a : size_a + pairs[0].B.numel()].abs().max() > 0


def test_a_subset_of_pairs_gives_that_slice() -> None:
    model, images = make_model(), make_images(3)
    pairs = lora_pairs(model)
    skipped = sum(pair.A.numel() + pair.B.numel() for pair in pairs[:5])
    _, all_phi = LoRAGradientFeatures(model)(images)
    _, phi = LoRAGradientFeatures(model, pairs[5:])(images)
    torch.testing.assert_close(phi, all_phi[:, skipped:], rtol=1e-12, atol=1e-14)


def test_scale_multiplies_features_and_not_scores() -> None:
    model, images = make_model(), make_images(3)
    features = LoRAGradientFeatures(model)
    mean, phi = features(images)
    features.scale = 0.25
    scaled_mean, scaled = features(images)
    torch.testing.assert_close(scaled, 0.25 * phi, rtol=1e-12, atol=0)
    torch.testing.assert_close(scaled_mean, mean)


def test_features_are_written_into_the_given_buffer() -> None:
    model, images = make_model(), make_images(3)
    features = LoRAGradientFeatures(model)
    out = torch.full((3, features.dim), torch.nan, dtype=torch.float32)
    _, phi = features(images, out=out)
    assert phi is out
    torch.testing.assert_close(out.double(), features(images)[1], rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="it must be"):
        features(images, out=out[:2])


def test_grads_layers_and_modes_are_left_alone() -> None:
    model, images = make_model(), make_images(3)
    features = LoRAGradientFeatures(model)
    model(images).sum().backward()
    before = [pair.A.grad.clone() for pair in features.pairs if pair.A.grad is not None]
    with torch.no_grad():
        features(images)
    with torch.inference_mode():
        _, phi = features(images * 1.0)
    assert not phi.is_inference()
    assert not any("forward" in vars(module) for module in model.modules())
    after = [pair.A.grad for pair in features.pairs]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True) if y is not None)
    assert model(images).requires_grad


def test_training_gradients_are_the_same_with_and_without_features() -> None:
    model, images = make_model(), make_images(3)
    features = LoRAGradientFeatures(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    alone = torch.autograd.grad(model(images).square().mean(), parameters)
    loss = model(images).square().mean()
    features(images)  # Between a forward and its backward.
    beside = torch.autograd.grad(loss, parameters)
    assert all(torch.equal(x, y) for x, y in zip(alone, beside, strict=True))


def test_projected_features_are_the_projection_of_the_features() -> None:
    model, images = make_model(), make_images(3)
    features = LoRAGradientFeatures(model)
    sketch = CountSketch(features.dim, 64, seed=1)
    mean, phi = features(images)
    projected_mean, z = features.project(images, sketch)
    torch.testing.assert_close(z, sketch(phi))
    torch.testing.assert_close(projected_mean, mean)


def test_dropout_merged_and_disabled_adapters_take_the_slow_way() -> None:
    model, images = make_model(), make_images(2)
    features = LoRAGradientFeatures(model)
    _, phi = features(images)
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            layer.unmerge()
    torch.testing.assert_close(features(images)[1], phi, rtol=1e-9, atol=1e-12)
    with model.backbone.disable_adapter():  # type: ignore[operator]  # a PeftModel
        assert features(images)[1].abs().max() == 0


def test_another_scaling_is_seen() -> None:
    model, images = make_model(), make_images(2)
    features = LoRAGradientFeatures(model)
    features(images)
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.set_scale("default", 3.0)
    scores, phi = features(images)
    assert relative(phi, autograd_features(model, images, features.pairs)) < 1e-12
    torch.testing.assert_close(scores, model(images).detach())


class Bent(Linear):  # type: ignore[misc]  # PEFT is untyped
    """At B = 0 the same as LoRA, gradients included."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        through = self.lora_B["default"](self.lora_A["default"](x))
        y: Tensor = self.base_layer(x) + self.scaling["default"] * torch.tanh(through)
        return y


def test_a_layer_that_differs_only_where_b_is_not_zero_is_found_out() -> None:
    model, images = make_model(), make_images(2)
    pairs = lora_pairs(model)
    with torch.no_grad():
        for pair in pairs:
            pair.B.zero_()
    for module in model.modules():
        if isinstance(module, Linear):
            module.__class__ = Bent
    features, training = LoRAGradientFeatures(model), FastAdapters(model, pairs)
    features(images)
    training(model, images)
    assert features.is_fast
    assert training.is_fast
    with torch.no_grad():
        for pair in pairs:
            pair.B.fill_(0.1)
    assert relative(features(images)[1], autograd_features(model, images, pairs)) < 1e-12
    torch.testing.assert_close(training(model, images), model(images))
    assert not features.is_fast
    assert not training.is_fast


def test_layers_are_restored_when_the_model_raises() -> None:
    model = make_model()
    features = LoRAGradientFeatures(model)
    with pytest.raises(AssertionError):
        features(torch.zeros(2, 3, 40, 40, dtype=torch.float64))
    assert not any("forward" in vars(module) for module in model.modules())


def test_frozen_factors_give_the_same_features() -> None:
    model, images = make_model(), make_images(3)
    _, phi = LoRAGradientFeatures(model)(images)
    model.requires_grad_(False)
    _, frozen = LoRAGradientFeatures(model)(images)
    torch.testing.assert_close(frozen, phi, rtol=1e-12, atol=1e-14)


class FlatLoRA(nn.Module):
    """A LoRA layer on (b, n) inputs, run twice by its model, optionally with a DoRA-like norm."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.base_layer = nn.Linear(5, 5).double()
        self.lora_A = nn.ModuleDict({"default": nn.Linear(5, 2, bias=False).double()})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 5, bias=False).double()})
        self.scaling = {"default": 2.0}
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        down, up = self.lora_A["default"], self.lora_B["default"]
        y: Tensor = self.base_layer(x) + up(down(x)) * 2.0
        return y * (1 + up.get_parameter("weight").square().sum()) if self.norm else y


class FlatModel(nn.Module):
    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layer = FlatLoRA(norm)

    def forward(self, x: Tensor) -> Tensor:
        second: Tensor = self.layer(torch.tanh(self.layer(x)))
        return second.square().sum(-1)


def test_flat_inputs_and_a_layer_that_runs_twice() -> None:
    model = FlatModel()
    x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features = LoRAGradientFeatures(model)
    assert relative(features(x)[1], autograd_features(model, x, features.pairs)) < 1e-12
    assert features.is_fast


def test_an_unknown_layer_takes_the_slow_way_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = FlatModel(norm=True)
    x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features = LoRAGradientFeatures(model)
    with caplog.at_level(logging.WARNING):
        first, second = features(x)[1], features(x)[1]
    assert not features.is_fast
    assert relative(first, autograd_features(model, x, features.pairs)) < 1e-12
    torch.testing.assert_close(second, first)
    assert sum("slow" in record.message for record in caplog.records) == 1


def test_dora_gives_the_gradients_of_its_factors() -> None:
    from peft import LoraConfig, get_peft_model

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            score: Tensor = self.fc(x).squeeze(-1)
            return score

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["fc"], use_dora=True, init_lora_weights=False)
        model = get_peft_model(Net(), config)
    model = model.double().eval()
    x = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features = LoRAGradientFeatures(model)
    assert relative(features(x)[1], autograd_features(model, x, features.pairs)) < 1e-12


def test_wrong_score_shape_is_refused() -> None:
    model = make_model()

    class Column(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            scores: Tensor = model(images)
            return scores[:, None]

    with pytest.raises(ValueError, match="must give"):
        LoRAGradientFeatures(Column(), lora_pairs(model))(make_images(2))


def test_layers_that_are_never_called_have_gradient_zero() -> None:
    model, images = make_model(), make_images(2)
    whole = LoRAGradientFeatures(model)(images)[1]

    class Shorter(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            inner: Any = model.backbone.get_submodule("base_model.model")
            tokens: Tensor = inner.blocks[0](inner._pos_embed(inner.patch_embed(images)))
            return tokens.sum(dim=(1, 2))

    used = whole.clone()  # by a call before, as by the hot loop of a training
    phi = LoRAGradientFeatures(Shorter(), lora_pairs(model))(images, out=used)[1]
    later = phi[:, whole.shape[1] // 3 :]
    assert float(later.abs().max()) == 0.0
    assert float(phi.abs().max()) > 0
