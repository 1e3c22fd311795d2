"""What is asked of a backbone beside its name: size, weights, mode, and who draws by chance."""

from __future__ import annotations

import errno
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import nn

from vitucb.models import hub
from vitucb.models.backbone import create_backbone
from vitucb.models.lora import add_lora, lora_pairs
from vitucb.models.preprocess import preprocess_for
from vitucb.models.reward_model import RewardModel

TINY: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 2}


def saved_by_timm(folder: Path, name: str = "vit_tiny_patch16_224", **shape: Any) -> nn.Module:
    model: nn.Module = timm.create_model(name, **(TINY | shape))
    timm.models.save_for_hf(model, folder, safe_serialization=True, model_args=TINY | shape)
    return model


def test_a_size_that_patches_do_not_fill_is_refused(tmp_path: Path) -> None:
    saved_by_timm(tmp_path)
    with pytest.raises(ValueError, match=r"img_size 60 is not a multiple of 16.* give 48 or 64"):
        create_backbone(f"local-dir:{tmp_path}", img_size=60)
    with pytest.raises(ValueError, match="img_size 31 is not a multiple of 16"):
        create_backbone("flexivit_small", img_size=31, pretrained=False)
    model = create_backbone(f"local-dir:{tmp_path}", img_size=64)
    assert preprocess_for(model).size == (64, 64)


def test_a_size_of_timms_own_is_taken_as_it_was_trained() -> None:
    model = create_backbone("vit_so400m_patch14_siglip_384", pretrained=False, **TINY)
    assert preprocess_for(model).size == (384, 384)


def test_a_model_that_does_not_tell_its_size_has_the_one_that_was_asked_for() -> None:
    model = create_backbone("naflexvit_base_patch16_gap", img_size=64, pretrained=False, **TINY)
    assert preprocess_for(model).size == (64, 64)
    assert model(preprocess_for(model)(np.zeros((2, 8, 8, 3), np.uint8))).shape == (2, 24)


def test_a_file_of_weights_overrides_those_of_the_folder(tmp_path: Path) -> None:
    own = saved_by_timm(tmp_path / "folder")
    other = timm.create_model("vit_tiny_patch16_224", num_classes=3, **TINY)
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    name = f"local-dir:{tmp_path / 'folder'}"
    loaded = create_backbone(name, weights=tmp_path / "other.safetensors").state_dict()
    key = "blocks.0.attn.qkv.weight"
    torch.testing.assert_close(loaded[key], other.state_dict()[key])
    torch.testing.assert_close(create_backbone(name).state_dict()[key], own.state_dict()[key])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {"img_size": 50, "dynamic_img_size": True}),
        ("vit_small_patch16_dinov3", {"img_size": 60}),
        ("vit_tiny_patch16_224", {"in_chans": 1}),
    ],
)
def test_what_a_model_cannot_take_is_one_line(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"backbone '{name}' .* cannot be adapted: "):
        create_backbone(name, pretrained=False, **options)


@pytest.mark.parametrize("name", ["eva02_tiny_patch14_224", "beit_base_patch16_224"])
def test_adapters_loaded_into_a_backbone_are_those_that_were_saved(
    tmp_path: Path, name: str
) -> None:
    options: dict[str, Any] = {"img_size": 32 if "16" in name else 28, "pretrained": False, **TINY}
    model = add_lora(create_backbone(name, **options), rank=2)
    with torch.no_grad():
        for pair in lora_pairs(model):
            pair.B.normal_()
    model.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(create_backbone(name, **options), str(tmp_path)).eval()
    x = torch.randn(2, 3, options["img_size"], options["img_size"])
    with torch.no_grad():
        torch.testing.assert_close(again(x), model.eval()(x))


def test_training_takes_no_chance_inside_the_backbone() -> None:
    backbone = create_backbone(
        "vit_relpos_small_patch16_224", pretrained=False, img_size=32, **TINY
    )
    assert any(isinstance(m, nn.Dropout) and m.p > 0 for m in backbone.modules())
    with torch.no_grad():
        for module in backbone.modules():
            if type(module).__name__ == "RelPosMlp":
                for parameter in module.parameters():
                    parameter.normal_()
    model = RewardModel(add_lora(backbone, rank=2), 24, seed=0)
    x = torch.randn(2, 3, 32, 32)
    model.eval()
    expected = model.head(model.features(x))
    model.train()
    assert model.head.training
    torch.testing.assert_close(model.head(model.features(x)), expected)


def test_nothing_is_drawn_from_generators_of_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("seeded every device")

    monkeypatch.setattr(torch, "manual_seed", refuse)
    add_lora(create_backbone("vitucb-nano"), rank=2, seed=7)


def test_a_network_without_a_route_is_no_way_to_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError(OSError(errno.EHOSTUNREACH, "No route to host"))

    monkeypatch.setattr("urllib.request.urlopen", lost)
    assert not hub._answers("http://nowhere.example")


def test_a_backbone_is_trained_under_autocast() -> None:
    model = add_lora(create_backbone("vitucb-nano"), rank=2)
    with torch.autocast("cpu", torch.bfloat16):
        features = model(torch.randn(2, 3, 32, 32))
    features.float().sum().backward()
    assert all(pair.B.grad is not None for pair in lora_pairs(model))
