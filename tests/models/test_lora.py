from __future__ import annotations

import math
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from vitucb.config import LoRAConfig, RunConfig, override
from vitucb.config.lora import BlockNames, block_numbers
from vitucb.learning.gradient_features import LoRAGradientFeatures
from vitucb.models.lora import add_lora, lora_pairs, save_adapters, target_regex
from vitucb.models.reward_model import RewardModel


def backbone(depth: int = 2) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        depth=depth,
        embed_dim=32,
        num_heads=2,
        num_classes=0,
    )
    return model.eval()


def images(rows: int = 2) -> Tensor:
    return torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_blocks_and_targets_choose_the_layers() -> None:
    names = [pair.name for pair in lora_pairs(add_lora(backbone(), blocks=(-1,), targets=("fc1",)))]
    assert names == ["base_model.model.blocks.1.mlp.fc1"]
    assert len(lora_pairs(add_lora(backbone()))) == 8


def test_block_1_is_not_block_11() -> None:
    _, count = target_regex(backbone(12), ("qkv",), (1,))
    assert count == 1
    assert len(lora_pairs(add_lora(backbone(12), targets=("qkv",), blocks=(1,)))) == 1


@pytest.mark.parametrize(
    "init", ["default", "gaussian", "orthogonal", "olora", "pissa", "pissa_niter_4"]
)
def test_every_start_leaves_the_function_as_it_was_and_follows_the_seed(init: str) -> None:
    expected = backbone()(images())
    one = add_lora(backbone(), init=init, seed=3)
    two = add_lora(backbone(), init=init, seed=3)
    torch.testing.assert_close(one(images()), expected, rtol=1e-3, atol=1e-4)
    for first, second in zip(lora_pairs(one), lora_pairs(two), strict=True):
        assert torch.equal(first.A, second.A)
        assert torch.equal(first.B, second.B)
        assert (first.B.abs().max() == 0) == (init in ("default", "gaussian"))


def test_adapters_leave_the_global_generator_alone() -> None:
    model = backbone()
    state = torch.random.get_rng_state()
    add_lora(model, init="gaussian")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_rslora_divides_by_the_root_of_the_rank() -> None:
    pairs = lora_pairs(add_lora(backbone(), rank=4, alpha=8, use_rslora=True))
    assert {pair.scaling for pair in pairs} == {8 / math.sqrt(4)}
    assert {pair.scaling for pair in lora_pairs(add_lora(backbone(), rank=4, alpha=8))} == {2.0}
    assert {pair.scaling for pair in lora_pairs(add_lora(backbone(), rank=3))} == {2.0}


def test_dora_features_are_exact() -> None:
    model = RewardModel(add_lora(backbone(), rank=2, use_dora=True), 32)
    for pair in lora_pairs(model):
        pair.B.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    features = LoRAGradientFeatures(model)
    scores, phi = features(images())
    assert features.is_fast
    factors = [factor for pair in features.pairs for factor in (pair.A, pair.B)]
    for arm, score in enumerate(model(images())):
        grads = torch.autograd.grad(score, factors, retain_graph=True)
        torch.testing.assert_close(phi[arm], torch.cat([g.flatten() for g in grads]))
        assert scores[arm] == pytest.approx(float(score.detach()), abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "lora.rank 0 must be at least 1"),
        (
            {"init": "eva"},
            "lora.init 'eva' is taken from images, for which only the expert adapted",
        ),
        ({"init": "LoRA-GA"}, "lora.init 'LoRA-GA' is not one of default, .*lora_ga, lora_one or"),
        ({"init": "pissa_niter_0"}, "lora.init 'pissa_niter_0'"),
        ({"init": "orthogonal", "rank": 3}, "needs an even rank, not 3"),
        ({"targets": ("qvk",)}, r"lora.targets \['qvk'\] must be one or more of"),
        ({"targets": ()}, r"lora.targets \[\] must be"),
        ({"blocks": (2,)}, r"lora.blocks \[2\]: the backbone has blocks 0 to 1"),
    ],
)
def test_bad_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        add_lora(backbone(), **arguments)  # type: ignore[arg-type]  # wrong on purpose


def test_the_config_has_the_same_settings_and_defaults() -> None:
    settings = {"agent": {"lora": {"init": "olora", "use_rslora": True, "use_dora": True}}}
    lora = override(RunConfig(), settings).agent.lora
    assert (lora.init, lora.use_rslora, lora.use_dora) == ("olora", True, True)
    assert (LoRAConfig().init, LoRAConfig().use_rslora, LoRAConfig().use_dora) == (
        "default",
        False,
        False,
    )


def test_adapters_over_randomly_drawn_base_weights_are_not_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = add_lora(backbone(), init="pissa_niter_4")
    assert not save_adapters(model, tmp_path / "adapter", is_base_changed=False)
    assert not (tmp_path / "adapter").exists()
    assert "no adapter/ for PEFT: pissa_niter_4 draws the base weights" in caplog.text


def test_adalora_still_needs_the_number_of_steps_before_the_first_one() -> None:
    """The reason for which it is refused; where PEFT no longer asks, it can be had."""
    from peft import AdaLoraConfig

    with pytest.raises(ValueError, match="does not work when `total_step` is None"):
        AdaLoraConfig()


@pytest.mark.parametrize(
    ("blocks", "depth", "numbers"),
    [
        (None, 3, [0, 1, 2]),
        ("last-half", 4, [2, 3]),
        ("last-half", 3, [1, 2]),
        ("last-half", 1, [0]),
        ((-1, 0), 3, [0, 2]),
        ((2, -1), 3, [2]),
    ],
    ids=str,
)
def test_blocks_by_number_or_name(
    blocks: tuple[int, ...] | BlockNames | None, depth: int, numbers: list[int]
) -> None:
    assert block_numbers(blocks, depth, "blocks") == numbers
