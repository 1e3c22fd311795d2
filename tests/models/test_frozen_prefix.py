"""Tokens kept in memory: the same model in two halves, and the same bits whatever is held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import vitucb
from vitucb.learning.gradient_features import LoRAGradientFeatures
from vitucb.models.backbone import create_backbone
from vitucb.models.frozen_prefix import FrozenPrefix, PrefixCache, make_prefix_cache
from vitucb.models.lora import add_lora, lora_pairs
from vitucb.models.preprocess import preprocess_for
from vitucb.models.reward_model import RewardModel

SIDE = 32


def adapted(
    name: str = "vit_tiny_patch16_224", blocks: Sequence[int] | None = None, **options: Any
) -> nn.Module:
    """A small model with adapters whose B is not zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        settings = {"img_size": SIDE, "patch_size": 8, "embed_dim": 24, "depth": 3} | options
        backbone = timm.create_model(name, num_classes=0, **settings)
    model: nn.Module = add_lora(backbone, rank=2, blocks=blocks).eval()
    generator = torch.Generator().manual_seed(3)
    for pair in lora_pairs(model):
        with torch.no_grad():
            pair.B.normal_(0.0, 0.3, generator=generator)
    return model


def noise(count: int) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def pictures(*seeds: int) -> list[NDArray[np.uint8]]:
    return [
        np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        for seed in seeds
    ]


def cache(limit_bytes: int = 1 << 20, batch: int = 4) -> PrefixCache:
    backbone = create_backbone("vitucb-nano")
    preprocess = preprocess_for(backbone)
    prefix = FrozenPrefix(add_lora(backbone, blocks=[2, 3]), noise(4))
    return PrefixCache(prefix, preprocess, limit_bytes=limit_bytes, batch=batch)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg", "pre_norm": True}),
        ("vit_tiny_patch16_224", {"reg_tokens": 2, "dynamic_img_size": True}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("eva02_tiny_patch14_224", {"num_heads": 3}),
        ("beit_base_patch16_224", {"num_heads": 3, "use_shared_rel_pos_bias": True}),
    ],
)
@pytest.mark.parametrize("blocks", [None, [-1]])
def test_two_halves_are_the_model(
    name: str, options: dict[str, Any], blocks: list[int] | None
) -> None:
    model, images = adapted(name, blocks, **options), noise(3)
    prefix = FrozenPrefix(model, images)
    tokens = prefix.before(images)
    assert prefix.gave(tokens)
    assert not prefix.gave(images)
    assert not tokens.requires_grad
    torch.testing.assert_close(prefix.after(tokens), model(images))
    torch.testing.assert_close(prefix.after(tokens[:1]), model(images[:1]))
    assert not any("forward" in vars(module) for module in model.modules())


def test_gradient_features_of_tokens_are_those_of_images() -> None:
    model, images = RewardModel(adapted(blocks=[1, 2]), 24).eval(), noise(3)
    scores, phi = LoRAGradientFeatures(model)(images)
    model.prefix = FrozenPrefix(model.backbone, images)
    from_tokens = LoRAGradientFeatures(model)(model.prefix.before(images))
    torch.testing.assert_close(from_tokens[0], scores)
    torch.testing.assert_close(from_tokens[1], phi)


def test_blocks_before_the_first_adapter_do_not_run_again() -> None:
    model, images = adapted(blocks=[2]), noise(2)
    prefix = FrozenPrefix(model, images)
    tokens, calls = prefix.before(images), []
    for block in model.get_submodule("base_model.model.blocks").children():
        block.get_submodule("attn").register_forward_hook(lambda *_: calls.append(1))
    prefix.after(tokens)
    assert len(calls) == 1


class Residual(nn.Module):
    """Uses what the stem gives again at the end."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        stem: nn.Module = self.inner.get_submodule("base_model.model.patch_embed")
        features: Tensor = self.inner(images) + stem(images).mean(dim=1)
        return features


def test_a_prefix_that_is_no_function_of_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="dropout"):
        FrozenPrefix(adapted(pos_drop_rate=0.1), noise(2))
    with pytest.raises(ValueError, match="dropout"):
        FrozenPrefix(adapted(patch_drop_rate=0.5), noise(2))
    trained = adapted()
    trained.get_parameter("base_model.model.pos_embed").requires_grad_(True)
    with pytest.raises(ValueError, match="trained"):
        FrozenPrefix(trained, noise(2))
    with pytest.raises(ValueError, match="used again"):
        FrozenPrefix(Residual(adapted()), noise(2))


def test_dropout_behind_the_first_adapter_is_no_obstacle() -> None:
    model = adapted(proj_drop_rate=0.3)
    tokens = FrozenPrefix(model, noise(2)).before(noise(2))
    model.train()
    torch.testing.assert_close(FrozenPrefix(model.eval(), noise(2)).before(noise(2)), tokens)


def test_tokens_have_the_same_bits_alone_in_company_and_held() -> None:
    warm, alone = cache(), cache()
    images = pictures(0, 1, 2, 3, 4, 5)
    company = warm(images)
    single = torch.cat([alone([image]) for image in reversed(images)]).flip(0)
    again = warm([images[4], images[0], images[4]])
    assert torch.equal(company, single)
    assert torch.equal(again, company[[4, 0, 4]])
    assert warm.misses == alone.misses == 6


def test_bytes_are_bounded_and_the_latest_used_stay() -> None:
    one = cache()
    row = one(pictures(0)).nbytes
    assert row < one.num_bytes < row + 1024
    bounded = cache(limit_bytes=3 * one.num_bytes)
    first = bounded(pictures(0, 1, 2, 3, 4))
    assert bounded.num_bytes == 3 * one.num_bytes
    bounded(pictures(2))
    bounded(pictures(5))
    assert bounded.misses == 6
    bounded(pictures(2, 4, 5))
    assert bounded.misses == 6
    assert torch.equal(bounded(pictures(0, 1, 2, 3, 4)), first)
    assert bounded.misses == 9


def test_images_of_one_content_and_other_shapes_are_told_apart() -> None:
    held = cache()
    image = pictures(0)[0]
    held([image, image[::-1], image.reshape(16, 64, 3), image[..., :1]])
    assert held.misses == 4
    held([image.copy()])
    assert held.misses == 4


@pytest.mark.parametrize(("arms", "batch"), [(1, 1), (10, 10), (16, 16), (20, 10), (1000, 16)])
def test_new_images_of_a_round_fill_their_batches(arms: int, batch: int) -> None:
    model = adapted()
    made = make_prefix_cache(model, lambda image: noise(1)[0], (SIDE, SIDE), limit_mib=1, arms=arms)
    assert made is not None
    assert made._batch == batch


def test_zero_is_off_and_less_is_refused() -> None:
    def make(limit_mib: int) -> object:
        return make_prefix_cache(
            adapted(), lambda image: noise(1)[0], (SIDE, SIDE), limit_mib=limit_mib, arms=2
        )

    assert make(0) is None
    with pytest.raises(ValueError, match=r"agent.prefix_cache_mib -1 must be at least 0"):
        make(-1)


@pytest.mark.parametrize("overrides", [{}, {"features": "last-layer"}, {"lora": {"blocks": [-1]}}])
def test_agent_chooses_the_same_with_and_without(overrides: dict[str, Any]) -> None:
    rounds = []
    for limit in (0, 256):
        env = gym.make("vitucb/ImageArms-v0", num_arms=3, max_episode_steps=12)
        agent = vitucb.make_agent("vit-ucb", env, seed=0, prefix_cache_mib=limit, **overrides)
        rounds.append(list(vitucb.run(env, agent, seed=0)))
    for one, two in zip(*rounds, strict=True):
        assert one.decision.action == two.decision.action
        np.testing.assert_allclose(one.decision.mean, two.decision.mean, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(one.decision.width, two.decision.width, rtol=1e-3, atol=1e-4)
