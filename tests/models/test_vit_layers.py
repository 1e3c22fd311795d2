from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from vitucb.learning.gradient_features import LoRAGradientFeatures
from vitucb.models import onednn_linear as fast_linear
from vitucb.models.backbone import create_backbone
from vitucb.models.lora import add_lora, lora_pairs
from vitucb.models.preprocess import input_size
from vitucb.models.reward_model import RewardModel
from vitucb.models.vit_layers import call_every_layer, check_forward, find_layers

SMALL: dict[str, Any] = {"depth": 2, "embed_dim": 32, "num_heads": 2}
PLAIN = {"qkv": 1, "proj": 1, "fc1": 1, "fc2": 1}
# A name, its size in pixels, arguments that make it small, and the roles in a block.
MODELS: list[tuple[str, int, dict[str, Any], dict[str, int]]] = [
    ("vit_tiny_patch16_224", 32, SMALL, PLAIN),
    ("vit_tiny_patch16_224", 32, {**SMALL, "dynamic_img_size": True}, PLAIN),
    ("deit3_small_patch16_224", 32, SMALL, PLAIN),  # LayerScale, no class token in the position
    ("deit_tiny_distilled_patch16_224", 32, SMALL, PLAIN),
    ("vit_small_patch14_reg4_dinov2", 28, SMALL, PLAIN),  # registers, LayerScale
    ("vit_giant_patch14_dinov2", 28, SMALL, PLAIN),  # SwiGLU in one layer
    ("vit_small_patch16_dinov3", 32, SMALL, PLAIN),  # rotary position, registers, no key bias
    ("vit_small_plus_patch16_dinov3", 32, SMALL, {**PLAIN, "fc1": 2}),
    ("vit_base_patch16_clip_224", 32, SMALL, PLAIN),
    ("vit_base_patch16_siglip_224", 32, SMALL, PLAIN),  # attention pooling
    ("eva02_tiny_patch14_224", 28, SMALL, PLAIN),  # reads the weight of qkv around the layer
    ("eva02_base_patch14_224", 28, SMALL, {"qkv": 3, "proj": 1, "fc1": 2, "fc2": 1}),
    ("beit_base_patch16_224", 32, SMALL, PLAIN),
]
IDS = [f"{name}-{'dynamic' if 'dynamic_img_size' in o else size}" for name, size, o, _ in MODELS]


def small(name: str, size: int, options: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    return create_backbone(name, img_size=size, pretrained=False, **options)


def images(rows: int, size: int) -> Tensor:
    return torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("least", [0, fast_linear._LEAST_PRODUCTS], ids=["onednn", "torch"])
@pytest.mark.parametrize(("name", "size", "options", "roles"), MODELS, ids=IDS)
def test_roles_are_found_by_structure_and_every_adapter_takes_part(
    name: str,
    size: int,
    options: dict[str, Any],
    roles: dict[str, int],
    least: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # These models are too small for the products of models in use.
    monkeypatch.setattr(fast_linear, "_LEAST_PRODUCTS", least)
    monkeypatch.setattr(fast_linear, "prefers_onednn", lambda: True)
    backbone = small(name, size, options)
    assert input_size(backbone) == (size, size)
    layers = find_layers(backbone)
    assert Counter(layer.role for layer in layers if layer.block == 1) == roles
    expected = backbone(images(2, size))
    model = RewardModel(add_lora(backbone, rank=2), 32)
    torch.testing.assert_close(model.features(images(2, size)), expected, rtol=1e-4, atol=1e-4)
    generator = torch.Generator().manual_seed(1)
    for pair in lora_pairs(model):
        pair.B.data.normal_(0, 0.1, generator=generator)
    features = LoRAGradientFeatures(model)
    scores, phi = features(images(3, size))
    assert features.is_fast
    factors = [factor for pair in features.pairs for factor in (pair.A, pair.B)]
    assert len(factors) == 2 * len(layers)
    for arm, score in enumerate(model(images(3, size))):
        grads = torch.autograd.grad(score, factors, retain_graph=True)
        assert all(grad.abs().max() > 0 for grad in grads)
        reference = torch.cat([grad.flatten() for grad in grads])
        torch.testing.assert_close(phi[arm], reference, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(scores[arm], score.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "eva02_tiny_patch14_224"])
def test_calling_the_layer_computes_what_reading_its_weight_did(name: str) -> None:
    size = 32 if "16" in name else 28
    model = small(name, size, SMALL)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith(("q_bias", "v_bias")):
            nn.init.normal_(parameter)
    before = model(images(2, size))
    meta_layers = find_layers(model)
    call_every_layer(model)
    torch.testing.assert_close(model(images(2, size)), before)
    assert len(meta_layers) == 8


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet18", "no list of blocks that all hold multi-head attention"),
        ("mixer_s16_224", "no list of blocks"),
        ("hiera_tiny_224", "a hierarchical transformer"),
        ("xcit_nano_12_p16_224", "batch normalisation, which mixes the images of a batch"),
        ("swin_tiny_patch4_window7_224", "a hierarchical transformer, whose width changes"),
        ("coat_tiny", "several stacks of the same blocks: a multi-scale transformer"),
    ],
)
def test_other_architectures_are_refused_with_the_reason(name: str, reason: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    with pytest.raises(ValueError, match=reason):
        find_layers(model)
    with pytest.raises(ValueError, match=f"the backbone cannot be adapted: .*{reason}"):
        add_lora(model)


def test_a_layer_that_is_read_and_not_called_is_noticed() -> None:
    with torch.device("meta"):
        model = timm.create_model("beit_base_patch16_224", num_classes=0, **SMALL).eval()
    layers = find_layers(model)
    with pytest.raises(ValueError, match=r"it runs layer 'blocks.0.attn.qkv' on nothing"):
        check_forward(model, layers, (224, 224))
    call_every_layer(model)
    check_forward(model, layers, (224, 224))


def test_a_model_without_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gives \(2, 5, 32\) for two images, not \(2, 32\)"):
        small("vit_tiny_patch16_224", 32, {**SMALL, "global_pool": ""})
