"""Patch dropout: which tokens stay, for which networks, and that they are a set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from vitucb.learning.experts.adapted.views import (
    PatchDropout,
    Views,
    find_patch_dropout,
    take_tokens,
)
from vitucb.models.frozen_prefix import FrozenPrefix
from vitucb.models.lora import add_lora
from vitucb.models.reward_model import RewardModel

SIDE, DIM = 16, 12


def model_of(name: str = "vit_tiny_patch16_224", **options: Any) -> RewardModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        shape = {"img_size": SIDE, "patch_size": 4, "embed_dim": DIM, "num_heads": 2, "depth": 2}
        backbone: nn.Module = timm.create_model(name, num_classes=0, **shape | options)
        dim = int(backbone.num_features)  # type: ignore[arg-type]  # timm sets an int
        model = RewardModel(add_lora(backbone.eval(), rank=2, seed=3), dim).eval()
        model.prefix = FrozenPrefix(model.backbone, torch.randn(2, 3, SIDE, SIDE))
    return model


@pytest.mark.parametrize(("rate", "patches"), [(0.25, 12), (0.5, 8), (0.9, 2), (0.999, 1), (0, 16)])
def test_so_many_patches_stay_and_class_tokens_always(rate: float, patches: int) -> None:
    kept = PatchDropout(17, 1, rate).draw(30, np.random.default_rng(0))

    assert kept.shape == (30, 1 + patches)
    assert (kept[:, 0] == 0).all()
    assert all(len(set(row)) == len(row) and row.max() < 17 for row in kept)


def test_every_patch_is_as_likely_and_images_are_drawn_apart() -> None:
    kept = PatchDropout(8, 0, 0.5).draw(4_000, np.random.default_rng(0))

    shares = np.bincount(kept.ravel(), minlength=8) / 4_000
    assert shares == pytest.approx(np.full(8, 0.5), abs=0.04)
    # 70 sets of four patches, each in 1 of 70 images.
    sets, counts = np.unique(np.sort(kept, axis=1), axis=0, return_counts=True)
    assert len(sets) == 70
    assert counts.max() < 3 * counts.min()


def test_tokens_are_taken_image_by_image() -> None:
    tokens = torch.randn(3, 5, 2)
    kept = np.array([[0, 4], [2, 1], [3, 3]])

    taken = take_tokens(tokens, kept)

    rows = [[tokens[i, j] for j in row] for i, row in enumerate(kept.tolist())]
    assert torch.equal(taken, torch.stack([torch.stack(row) for row in rows]))
    assert take_tokens(tokens, None) is tokens


def test_views_of_some_images_are_theirs() -> None:
    views = Views(np.array([0, 2, 1]), np.arange(6).reshape(3, 2))

    some = views.take(np.array([2, 0]))

    assert some.copies.tolist() == [1, 0]
    assert some.kept is not None
    assert some.kept.tolist() == [[4, 5], [0, 1]]
    assert Views(views.copies).take(np.array([1])).kept is None


@pytest.mark.parametrize("pooling", ["token", "avg"])
def test_patches_are_a_set_and_a_part_of_them_is_one_too(pooling: str) -> None:
    model = model_of(global_pool=pooling)
    dropout = find_patch_dropout(model, 0.5)
    assert dropout is not None
    assert dropout.num_kept == 9
    assert model.prefix is not None
    tokens = model.prefix.before(torch.randn(4, 3, SIDE, SIDE))
    kept = dropout.draw(4, np.random.default_rng(0))
    turned = np.concatenate([kept[:, :1], kept[:, :0:-1]], axis=1)

    with torch.no_grad():
        features, same = (model.features(take_tokens(tokens, k)) for k in (kept, turned))
        whole = model.features(tokens)
        by_hand = model.backbone.forward_head(_through(model, take_tokens(tokens, kept)))  # type: ignore[operator]  # a timm ViT

    torch.testing.assert_close(features, same, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features, by_hand, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(features, whole, rtol=1e-2)


def _through(model: RewardModel, tokens: torch.Tensor) -> torch.Tensor:
    """Blocks and last norm, without anything of ours."""
    backbone: Any = model.backbone
    for block in backbone.blocks:
        tokens = block(tokens)
    normed: torch.Tensor = backbone.norm(tokens)
    return normed


def test_networks_that_see_where_a_token_stands_train_on_whole_images(
    caplog: pytest.LogCaptureFixture,
) -> None:
    relative = model_of("vit_relpos_small_patch16_224", class_token=False)

    assert find_patch_dropout(relative, 0.5) is None
    assert "agent.training.patch_drop_rate 0.5: this backbone trains on whole" in caplog.text
    assert find_patch_dropout(model_of(), 0.0) is None
    without = model_of()
    without.prefix = None
    assert find_patch_dropout(without, 0.5) is None


def test_patches_stay_away_unless_told_otherwise_where_they_can(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dropout = find_patch_dropout(model_of(), None)
    assert dropout is not None
    assert dropout.num_kept == 1 + 10
    for larger in (model_of(depth=5), model_of(embed_dim=194)):
        dropout = find_patch_dropout(larger, None)
        assert dropout is not None
        assert dropout.num_kept == 1 + 14

    relative = model_of("vit_relpos_small_patch16_224", class_token=False)
    assert find_patch_dropout(relative, None) is None
    assert not caplog.records
