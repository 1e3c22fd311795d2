from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont
from safetensors.torch import load_file

from vitucb.models.backbone import create_backbone

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("distil_nano")


@pytest.fixture
def teacher_views(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("teacher_views")


@pytest.fixture
def gather_signs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("gather_signs")


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "views.npz",
        views=rng.integers(0, 256, (24, 3, 32, 32), dtype=np.uint8),
        labels=np.arange(24) % 4 - 1,  # -1: a photograph without a label
        components=rng.normal(size=(24, 6)).astype(np.float16),
        logits=rng.normal(size=(24, 5)).astype(np.float16),
    )
    masks = rng.integers(0, 256, (8, 32, 32), dtype=np.uint8)
    np.savez(tmp_path / "signs.npz", masks=masks, labels=np.arange(8) % 3)
    return ["--views", str(tmp_path / "views.npz"), "--signs", str(tmp_path / "signs.npz")]


def distil(script: ModuleType, data: list[str], out: Path, *more: str) -> dict[str, torch.Tensor]:
    script.main([*data, "--out", str(out), "--steps", "4", "--batch-size", "16", *more])
    return load_file(out)


def test_distilling_writes_weights_that_the_backbone_loads(
    script: ModuleType, data: list[str], tmp_path: Path
) -> None:
    state = distil(script, data, tmp_path / "nano.safetensors")
    assert all(value.dtype == torch.float16 for value in state.values())
    model = create_backbone(weights=tmp_path / "nano.safetensors")
    assert model(torch.zeros(1, 3, 32, 32)).isfinite().all()


@pytest.mark.slow
def test_a_resumed_distillation_equals_an_uninterrupted_one(
    script: ModuleType, data: list[str], tmp_path: Path
) -> None:
    whole = distil(script, data, tmp_path / "whole.safetensors")
    distil(script, data, tmp_path / "parts.safetensors", "--stop-after", "2")
    parts = distil(script, data, tmp_path / "parts.safetensors")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_signs_stay_in_range_and_keep_their_shape(script: ModuleType) -> None:
    masks = torch.zeros(2, 32, 32, dtype=torch.uint8).repeat(50, 1, 1)
    masks[0::2, 8:24, 12:20] = 255  # a bar upright
    masks[1::2, 12:20, 8:24] = 255  # a bar lying
    images = script.draw_signs(masks, torch.Generator().manual_seed(0))
    assert images.shape == (100, 3, 32, 32)
    assert images.min() >= -1
    assert images.max() <= 1
    gray = images.mean(1).flatten(1)
    gray = (gray - gray.mean(1, keepdim=True)) / gray.std(1, keepdim=True)
    similar = (gray @ gray.T / gray.shape[1]).abs()  # the sign is that of the ink on the paper
    kind = torch.arange(100) % 2
    same = (kind[:, None] == kind) & ~torch.eye(100, dtype=torch.bool)
    assert similar[same].mean() > similar[kind[:, None] != kind].mean() + 0.1


def test_principal_components_order_and_scale(teacher_views: ModuleType) -> None:
    rng = torch.Generator().manual_seed(0)
    deviations = torch.linspace(1, 4, 300)
    x = torch.randn(20_000, 300, generator=rng) * deviations + 7
    kept = teacher_views.principal_components(x.half()).float()
    assert kept.shape == (20_000, 256)
    assert kept.mean(0).abs().max() < 0.1
    # A component of deviation s is kept with deviation sqrt(s).
    assert kept.std(0)[-1] == pytest.approx(2, rel=0.05)
    assert (kept.std(0).diff() > -0.01).all()


def test_windows_come_from_pictures_of_some_size(teacher_views: ModuleType, tmp_path: Path) -> None:
    Image.new("RGB", (200, 100), (200, 30, 10)).save(tmp_path / "red.png")
    Image.new("RGB", (40, 40), (0, 0, 255)).save(tmp_path / "small.png")
    windows = teacher_views.cut_photographs(tmp_path, 12, np.random.default_rng(0))
    assert windows.shape == (12, 3, 32, 32)
    assert (windows == torch.tensor([200, 30, 10], dtype=torch.uint8)[:, None, None]).all()


def test_letters_fill_the_canvas(gather_signs: ModuleType) -> None:
    face = ImageFont.load_default(size=100)  # the outline font that Pillow carries
    assert isinstance(face, ImageFont.FreeTypeFont)
    mask = gather_signs._centred(gather_signs._drawn("H", face))
    assert mask.shape == (32, 32)
    rows, columns = np.nonzero(mask > 100)
    assert max(np.ptp(rows), np.ptp(columns)) in range(21, 25)
