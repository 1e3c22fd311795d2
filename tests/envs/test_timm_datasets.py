"""Sets that timm fetches, torchvision's and Hugging Face's, without a network."""

from __future__ import annotations

import io
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.envs.tiny_datasets import assert_refused, encode, pixels_of
from vitucb.envs.data.datasets import load_dataset


class _FakeSet:
    """Stands in for a torchvision data set."""

    classes: tuple[str | tuple[str, ...], ...] = ("plane", "car", "bird")
    targets = (2, 0, 2, 0)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (4, 4), (index, 0, 0)), self.targets[index]


class _FakeReader:
    """Stands in for timm's reader of a Hugging Face data set."""

    label_key = "label"

    def __init__(self) -> None:
        self.dataset = {"label": [5, 3]}

    def __getitem__(self, index: int) -> tuple[io.BytesIO, int]:
        return io.BytesIO(encode(np.full((4, 4, 3), index, np.uint8), "PNG")), 0


def _fake_timm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dataset: Any) -> dict[str, Any]:
    """Replace `timm.data` so that neither torch nor the network is needed; returns the call."""
    call: dict[str, Any] = {}

    def create_dataset(name: str, **kwargs: Any) -> Any:
        call.update(name=name, **kwargs)
        if isinstance(dataset, Exception):
            raise dataset
        return dataset

    module = types.ModuleType("timm.data")
    monkeypatch.setattr(module, "create_dataset", create_dataset, raising=False)
    monkeypatch.setitem(sys.modules, "timm", types.ModuleType("timm"))
    monkeypatch.setitem(sys.modules, "timm.data", module)
    monkeypatch.setenv("VITUCB_DATA", str(tmp_path / "cache"))
    return call


def test_classes_that_share_a_name_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """ImageNet of torchvision has two cranes, and a tuple of words for every class."""

    class Cranes(_FakeSet):
        classes = (("crane",), ("tench", "Tinca tinca"), ("crane",))
        targets = (2, 0, 1, 0)

    _fake_timm(monkeypatch, tmp_path, Cranes())
    dataset = load_dataset("torch/imagenet")
    assert dataset.class_names == ("crane (0)", "tench, Tinca tinca", "crane (2)")
    chosen = load_dataset("torch/imagenet", classes=["crane (2)", "tench, Tinca tinca"])
    assert chosen.class_names == ("crane (2)", "tench, Tinca tinca")
    assert pixels_of(chosen)[0, 0, 0, 0] == 0  # the first image, of label 2


def test_torchvision_sets_come_through_timm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    call = _fake_timm(monkeypatch, tmp_path, _FakeSet())
    dataset = load_dataset("torch/cifar10#test")
    assert (call["name"], call["split"], call["download"]) == ("torch/cifar10", "test", True)
    assert call["root"] == str(tmp_path / "cache")
    assert dataset.class_names == ("plane", "bird")
    assert pixels_of(dataset)[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_hugging_face_sets_come_through_timm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    call = _fake_timm(monkeypatch, tmp_path, types.SimpleNamespace(reader=_FakeReader()))
    dataset = load_dataset("hfds/owner/name")
    assert (call["name"], call["split"]) == ("hfds/owner/name", "train")
    assert dataset.class_names == ("3", "5")
    assert pixels_of(dataset)[:, 0, 0, 0].tolist() == [0, 1]


def test_a_timm_set_that_cannot_be_loaded_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _fake_timm(monkeypatch, tmp_path, AssertionError("Unknown torchvision dataset cifar11"))
    message = r"'torch/cifar11': split 'train' .*Unknown torchvision dataset.*; check name, split"
    with pytest.raises(ValueError, match=message):
        load_dataset("torch/cifar11")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = ModuleNotFoundError("No module named 'datasets'", name="datasets")
    _fake_timm(monkeypatch, tmp_path, missing)
    assert_refused("hfds/a/b", "No module named 'datasets'; pip install datasets")
