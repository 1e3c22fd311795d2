"""The last block as far as it is read: the same features and gradients as the whole of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitucb.cli.bench.optimizers import CountOperations
from vitucb.learning.gradient_features import LoRAGradientFeatures
from vitucb.models.backbone import create_backbone
from vitucb.models.lora import add_lora, lora_pairs
from vitucb.models.pooled_block import find_pooled_block
from vitucb.models.reward_model import RewardModel

SIDE, WIDTH = 32, 24
MEAN = {"global_pool": "avg", "class_token": False}


def vit(**options: Any) -> nn.Module:
    settings = {"img_size": SIDE, "patch_size": 8, "embed_dim": WIDTH, "depth": 3} | options
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model: nn.Module = timm.create_model("vit_tiny_patch16_224", num_classes=0, **settings)
    return model


def reward_model(*, is_pooled: bool = True, use_dora: bool = False, **options: Any) -> RewardModel:
    adapted = add_lora(vit(**options), rank=2, use_dora=use_dora)
    model = RewardModel(adapted, WIDTH).eval().double()
    generator = torch.Generator().manual_seed(3)
    for pair in lora_pairs(model):
        with torch.no_grad():
            pair.B.normal_(0.0, 0.3, generator=generator)
    if not is_pooled:
        model._pooled, model._is_checked = None, True
    return model


def noise(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    "options",
    [
        {},
        MEAN,
        {"reg_tokens": 3, "init_values": 0.1},
        {**MEAN, "init_values": 0.1},
        {"qk_norm": True},
        {"depth": 1},
    ],
)
def test_features_and_gradients_are_those_of_the_whole(options: dict[str, Any]) -> None:
    whole, model = reward_model(**options, is_pooled=False), reward_model(**options)
    images = noise(5)
    scores, phi = LoRAGradientFeatures(whole)(images)
    ours = LoRAGradientFeatures(model)
    pooled_scores, pooled_phi = ours(images)
    assert ours.is_fast
    assert model._pooled is not None
    torch.testing.assert_close(pooled_scores, scores, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(pooled_phi, phi, rtol=1e-9, atol=1e-11)


def test_weights_that_dora_scales() -> None:
    whole, model = reward_model(use_dora=True, is_pooled=False), reward_model(use_dora=True)
    torch.testing.assert_close(model(noise(3)), whole(noise(3)), rtol=1e-11, atol=1e-12)
    assert model._pooled is not None


def test_the_backbone_itself_is_left_alone() -> None:
    model = reward_model()
    model(noise(2))
    assert not any("forward" in vars(module) for module in model.modules())
    backbone = model.backbone.get_submodule("base_model.model")
    assert isinstance(backbone, VisionTransformer)
    assert backbone.forward_features(noise(2)).shape == (2, 17, WIDTH)


def test_a_copy_runs_its_own_block() -> None:
    model = reward_model()
    scores = model(noise(2))
    other = copy.deepcopy(model)
    with torch.no_grad():
        for pair in lora_pairs(other):
            pair.B.zero_()
    assert not torch.allclose(other(noise(2)), scores)
    torch.testing.assert_close(model(noise(2)), scores)


@pytest.mark.parametrize(
    "options",
    [
        {"global_pool": "avg"},  # a class token that the mean leaves out
        {"global_pool": "map"},
        {**MEAN, "fc_norm": False},  # a norm of every token, then the mean
        {"global_pool": "max"},
        {"proj_drop_rate": 0.1},
        {"attn_drop_rate": 0.1},
        {"drop_path_rate": 0.1},
        {"scale_mlp_norm": True},
    ],
)
def test_other_makes_are_computed_whole(options: dict[str, Any]) -> None:
    assert find_pooled_block(vit(**options)) is None


def test_hooks_see_every_token() -> None:
    model = vit()
    model.get_submodule("blocks")[-1].register_forward_hook(lambda *_: None)  # type: ignore[index]
    assert find_pooled_block(model) is None


def test_models_of_other_libraries_are_computed_whole() -> None:
    assert find_pooled_block(nn.Sequential(nn.Flatten(), nn.Linear(3, 4))) is None


def shifted(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x[:, :1] + 1.0


def broken(x: Tensor, *_: Any, **__: Any) -> Tensor:
    raise AttributeError("a part of a later release")


@pytest.mark.parametrize("forward", [shifted, broken])
def test_a_block_that_gives_something_else_is_computed_whole(forward: Callable[..., Any]) -> None:
    model, whole = reward_model(), reward_model(is_pooled=False)
    assert model._pooled is not None
    model._pooled.__class__ = type("Other", (), {"__call__": staticmethod(forward)})
    torch.testing.assert_close(model(noise(2)), whole(noise(2)))
    assert model._pooled is None


def test_the_embedded_model_multiplies_less() -> None:
    model = RewardModel(add_lora(create_backbone("vitucb-nano")), 192).eval()
    images = noise(2).float()
    model(images)
    assert model._pooled is not None
    pooled, whole = CountOperations(), CountOperations()
    with torch.no_grad(), pooled:
        model(images)
    model._pooled = None
    with torch.no_grad(), whole:
        model(images)
    assert pooled.bytes < whole.bytes
