"""Data sets of a few noise images, written as files, and how one that does not fit is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vitucb.envs.data.datasets import load_dataset
from vitucb.envs.data.image_dataset import ImageDataset


def noise(count: int = 6, size: int = 8, channels: int = 3) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, size, size, channels), np.uint8)
    return images if channels == 3 else images[..., 0]


def encode(image: NDArray[np.uint8], kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind)
    return stream.getvalue()


def jpeg_arrays(files: list[bytes], labels: list[int]) -> dict[str, NDArray[Any]]:
    return {
        "jpeg": np.frombuffer(b"".join(files), np.uint8),
        "offsets": np.cumsum([0, *map(len, files)]),
        "labels": np.array(labels),
    }


def save(tmp_path: Path, **arrays: Any) -> str:
    np.savez(tmp_path / "set.npz", **arrays)
    return str(tmp_path / "set.npz")


def folder(tmp_path: Path, classes: tuple[str, ...] = ("cat", "dog"), size: int = 8) -> Path:
    root = tmp_path / "pets"
    for offset, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index, image in enumerate(noise(3, size)):
            Image.fromarray(image + np.uint8(offset)).save(root / name / f"{index}.png")
    return root


def pixels_of(dataset: ImageDataset) -> NDArray[np.uint8]:
    return dataset.images[np.arange(len(dataset.images))]


def assert_refused(name: str | Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset(name)
    assert "\n" not in str(caught.value)
