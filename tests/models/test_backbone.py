from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from vitucb.assets import EMBEDDED_BACKBONES
from vitucb.models.backbone import create_backbone
from vitucb.models.nano import ConvStem
from vitucb.models.preprocess import Preprocess, preprocess_for

NANO = "vit_nano_patch8_32.vitucb"
ASSETS = Path(__file__).parents[2] / "vitucb" / "assets"
PACKAGED = ASSETS / "vit_nano_patch8_32.safetensors"
EDITIONS = {"vitucb-nano": PACKAGED, "vitucb-nano-2": ASSETS / "vit_nano_patch8_32_2.safetensors"}
DINO = (
    Path(__file__).parents[3]
    / "shared"
    / "weights"
    / "vit_small_patch14_dinov2_imgfocus_fp16.safetensors"
)


@pytest.fixture(scope="module")
def nano() -> nn.Module:
    return create_backbone()


def random_input(rows: int) -> Tensor:
    return torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def random_images(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_every_embedded_backbone_is_an_edition() -> None:
    assert list(EMBEDDED_BACKBONES) == list(EDITIONS)
    assert EMBEDDED_BACKBONES["vitucb-nano"][0] == NANO


@pytest.mark.parametrize("alias", EDITIONS)
def test_timm_creates_the_embedded_model_with_its_packaged_weights(alias: str) -> None:
    model = timm.create_model(EMBEDDED_BACKBONES[alias][0], pretrained=True).eval()
    assert torch.equal(model(random_input(2)), create_backbone(alias)(random_input(2)))
    packaged = load_file(EDITIONS[alias])
    state = model.state_dict()
    assert set(state) == set(packaged)
    assert all(torch.equal(state[key], packaged[key].float()) for key in state)


def test_a_classifier_can_be_added_to_the_embedded_model() -> None:
    model = timm.create_model(NANO, pretrained=True, num_classes=7)
    assert model(random_input(2)).shape == (2, 7)


@pytest.mark.parametrize("path", EDITIONS.values(), ids=EDITIONS)
def test_the_embedded_model_is_small(nano: nn.Module, path: Path) -> None:
    assert sum(parameter.numel() for parameter in nano.parameters()) <= 4_000_000
    assert path.stat().st_size <= 5_000_000
    with safe_open(path, framework="pt") as file:
        assert all(file.get_tensor(key).dtype == torch.float16 for key in file.keys())  # noqa: SIM118


def test_the_embedded_model_keeps_rows_apart(nano: nn.Module) -> None:
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in nano.modules())
    x = random_input(12)
    together, again = nano(x), nano(x)
    alone = torch.cat([nano(row[None]) for row in x])
    assert torch.equal(together, again)
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


def test_training_and_evaluation_mode_agree(nano: nn.Module) -> None:
    expected = nano(random_input(2))
    assert torch.equal(nano.train()(random_input(2)), expected)
    nano.eval()


def test_another_input_size_resamples_the_position_embedding() -> None:
    model = create_backbone(img_size=64)
    assert preprocess_for(model).size == (64, 64)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 192)


def test_nearest_neighbours_on_digits_beat_the_floor(nano: nn.Module) -> None:
    digits = load_digits()
    digits.images, digits.target = digits.images[:900], digits.target[:900]
    images = (digits.images[..., None] * (255 / 16)).round().astype(np.uint8)
    with torch.no_grad():
        features = nano(preprocess_for(nano)(images))
    features = features - features[:500].mean(0)
    features = nn.functional.normalize(features / features[:500].std(0), dim=1)
    labels = torch.from_numpy(digits.target)
    nearest = (features[500:] @ features[:500].T).argmax(1)
    assert (labels[nearest] == labels[500:]).double().mean() > 0.93


def test_the_stem_refuses_sizes_it_cannot_tile() -> None:
    with pytest.raises(ValueError, match="not a multiple of 8"):
        ConvStem(img_size=30)
    with pytest.raises(ValueError, match=r"input is \(24, 24\) px"):
        ConvStem()(torch.zeros(1, 3, 24, 24))


def test_preprocess_equals_the_hand_computation() -> None:
    preprocess = Preprocess((2, 2), (0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    images = random_images(4, 2, 2, 3)
    expected = (images / 255 - np.array([0.5, 0.25, 0.0])) / np.array([0.5, 0.25, 1.0])
    result = preprocess(images)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), np.moveaxis(expected, -1, 1), atol=1e-6)


def test_preprocess_resizes_like_pillow() -> None:
    image = random_images(112, 96, 3)
    pillow = Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC)
    result = Preprocess((32, 32), (0, 0, 0), (1, 1, 1))(image)
    # Pillow rounds to 8 bits after each of its two passes.
    np.testing.assert_allclose(result.numpy().transpose(1, 2, 0) * 255, np.asarray(pillow), atol=2)


def test_preprocess_spreads_gray_and_lays_rgba_over_white() -> None:
    preprocess = Preprocess((4, 4), (0.5,) * 3, (0.5,) * 3)
    gray = random_images(2, 3, 4, 4, 1)
    assert torch.equal(preprocess(gray), preprocess(gray.repeat(3, axis=-1)))
    clear = random_images(4, 4, 4)
    clear[..., 3] = 0
    assert torch.equal(preprocess(clear), torch.ones(3, 4, 4))
    clear[..., 3] = 255
    torch.testing.assert_close(preprocess(clear), preprocess(clear[..., :3]))


def test_preprocess_takes_tensors_and_leading_dimensions() -> None:
    preprocess = Preprocess((8, 8), (0.5,) * 3, (0.5,) * 3, "bilinear")
    images = torch.from_numpy(random_images(2, 3, 16, 16, 3))
    result = preprocess(images)
    assert result.shape == (2, 3, 3, 8, 8)
    torch.testing.assert_close(result[1, 2], preprocess(images[1, 2]))


def test_preprocess_says_what_is_wrong() -> None:
    preprocess = Preprocess((4, 4), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(TypeError, match="give uint8"):
        preprocess(torch.zeros(4, 4, 3))
    with pytest.raises(ValueError, match=r"shape \(4, 4\)"):
        preprocess(random_images(4, 4))
    with pytest.raises(ValueError, match="interpolation 'area'"):
        Preprocess((4, 4), (0.5,) * 3, (0.5,) * 3, "area")


def test_preprocess_for_follows_the_pretrained_cfg() -> None:
    preprocess = preprocess_for(create_backbone("vit_tiny_patch16_224", pretrained=False))
    assert preprocess.size == (224, 224)
    assert preprocess.interpolation == "bicubic"
    assert preprocess.mean.flatten().tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_smal_patch16_224", "unknown backbone.*nearest: vit_small_patch16_224"),
        ("vitucb-nan", "nearest: vitucb-nano"),
        ("vit_nano_patch8_32.imagenet", f"unknown weights 'imagenet'.*{NANO}"),
        (
            "resnet18",
            "cannot be adapted: it has no list of blocks that all hold multi-head attention",
        ),
        ("swin_tiny_patch4_window7_224", "width 96: a hierarchical transformer"),
        ("local-dir:/no/such/folder", "no config.json in '/no/such/folder'"),
    ],
)
def test_bad_names_are_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        create_backbone(name)
    assert "\n" not in str(caught.value)


def test_bad_weights_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.safetensors': no such"):
        create_backbone(weights=tmp_path / "nowhere.safetensors")
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(PACKAGED.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"torn.safetensors' cannot be read"):
        create_backbone(weights=torn)
    state = load_file(PACKAGED)
    del state["blocks.2.attn.qkv.bias"]
    save_file(state, tmp_path / "lacking.safetensors")
    with pytest.raises(ValueError, match=r"do not fit.*blocks.2.attn.qkv.bias") as caught:
        create_backbone(weights=tmp_path / "lacking.safetensors")
    assert "\n" not in str(caught.value)


def test_an_unreachable_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("Name or service not known\nRetrying")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)
    # As if it had answered a moment ago.
    answers = "vitucb.models.backbone.asked_if_it_answers"
    monkeypatch.setattr(answers, contextlib.nullcontext)
    with pytest.raises(ValueError, match=r"not known\); pass --agent.weights FILE") as caught:
        create_backbone("vit_tiny_patch16_224.augreg_in21k")
    assert "\n" not in str(caught.value)


def test_a_weights_file_may_hold_a_classifier(tmp_path: Path) -> None:
    model = timm.create_model("vit_nano_patch8_32", num_classes=10).eval()
    save_file(model.state_dict(), tmp_path / "ten.safetensors")
    loaded = create_backbone(weights=str(tmp_path / "ten.safetensors"))
    features = model.forward_head(model.forward_features(random_input(2)), pre_logits=True)
    assert torch.equal(loaded(random_input(2)), features)
    assert loaded.pretrained_cfg["state_dict"] is None  # type: ignore[index]


def test_a_folder_saved_by_timm_loads(tmp_path: Path, nano: nn.Module) -> None:
    timm.models.save_for_hf(nano, tmp_path, safe_serialization=True)
    loaded = create_backbone(f"local-dir:{tmp_path}")
    assert torch.equal(loaded(random_input(1)), nano(random_input(1)))


@pytest.mark.skipif(not DINO.is_file(), reason="needs the shared ViT-S/14 checkpoint")
def test_a_hub_model_loads_from_a_file_at_another_size() -> None:
    model = create_backbone("vit_small_patch14_dinov2.lvd142m", weights=DINO, img_size=98)
    assert preprocess_for(model).size == (98, 98)
    weight = load_file(DINO)["blocks.3.mlp.fc1.weight"].float()
    assert torch.equal(model.state_dict()["blocks.3.mlp.fc1.weight"], weight)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 98, 98)).shape == (1, 384)


def test_building_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    create_backbone()
    assert torch.equal(torch.get_rng_state(), before)
