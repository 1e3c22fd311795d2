from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vitucb.models.backbone import create_backbone

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("pretrain_nano")


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("evaluate_backbone")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "tiny.npz", images=images, labels=np.arange(24) % 3)
    return tmp_path / "tiny.npz"


def pretrain(script: ModuleType, data: Path, out: Path, *more: str) -> dict[str, torch.Tensor]:
    tiny = ["--steps", "4", "--batch-size", "8", "--glyphs", "0.25"]
    script.main(["--data", str(data), "--out", str(out), *tiny, *more])
    return load_file(out)


def test_pretraining_writes_weights_that_the_backbone_loads(
    script: ModuleType, data: Path, tmp_path: Path
) -> None:
    state = pretrain(script, data, tmp_path / "nano.safetensors")
    assert all(value.dtype == torch.float16 for value in state.values())
    model = create_backbone(weights=tmp_path / "nano.safetensors")
    assert model(torch.zeros(1, 3, 32, 32)).isfinite().all()


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(
    script: ModuleType, data: Path, tmp_path: Path
) -> None:
    whole = pretrain(script, data, tmp_path / "whole.safetensors")
    pretrain(script, data, tmp_path / "parts.safetensors", "--stop-after", "2")
    parts = pretrain(script, data, tmp_path / "parts.safetensors")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_folding_the_batch_norm_changes_nothing(script: ModuleType) -> None:
    torch.manual_seed(0)
    model = script.Pretrainer("nano", {})
    with torch.no_grad():
        model.backbone(torch.randn(16, 3, 32, 32))  # moves the running statistics
    model.eval()
    plain = create_backbone(pretrained=False)
    plain.load_state_dict(model.exported())
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(plain(x), model.backbone(x), rtol=1e-4, atol=1e-5)


def test_augmentation_stays_in_range_and_follows_its_generator(script: ModuleType) -> None:
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    first, again, other = (
        script.augment(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= -1
    assert first.max() <= 1


def test_glyphs_of_one_class_are_nearer_than_of_two(script: ModuleType) -> None:
    rng = torch.Generator().manual_seed(0)
    prototypes = script.glyph_prototypes(rng)
    images, labels = script.draw_glyphs(prototypes[:4], 200, rng)
    assert images.shape == (200, 3, 32, 32)
    assert images.min() >= -1
    assert images.max() <= 1
    gray = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 2).flatten(1)
    gray = (gray - gray.mean(1, keepdim=True)) / gray.std(1, keepdim=True)
    similar = (gray @ gray.T / gray.shape[1]).abs()  # the sign is that of the pen on the paper
    same = (labels[:, None] == labels) & ~torch.eye(200, dtype=torch.bool)
    assert similar[same].mean() > similar[labels[:, None] != labels].mean() + 0.05


def test_the_learning_rate_warms_up_and_ends_at_zero(script: ModuleType) -> None:
    run = importlib.import_module("pretrain_run")
    options = script.parse(["--data", "x", "--out", "y", "--steps", "100", "--lr", "1"])
    rates = [run.learning_rate(step, options) for step in range(101)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[100] == pytest.approx(0)


@pytest.mark.slow
def test_evaluation_prints_and_writes_the_same_table(
    evaluate: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    evaluate.main(["--data", str(tmp_path), "--sets", "digits", "cifar10", "--json", str(out)])
    printed = capsys.readouterr().out
    table = json.loads(out.read_text())
    assert list(table) == ["digits"]  # the folder holds no CIFAR-10
    assert f"{100 * table['digits']['k-NN']:.1f}" in printed
    assert all(0.5 < value <= 1 for value in table["digits"].values())


def test_probes_are_perfect_on_separable_features(evaluate: ModuleType) -> None:
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 4
    x = 5 * torch.eye(4)[y] + torch.randn(400, 4, generator=rng) * 0.1
    assert all(value == 1 for value in evaluate.probe(x, y, x, y).values())
