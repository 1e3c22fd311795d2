"""Pictures that were reported to trip readers: see docs/fault_reports.md."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitucb.envs.data.datasets import load_dataset
from vitucb.envs.data.image_dataset import ImageDataset

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)
Write = Callable[[Path], None]


def beside(folder: Path, write: Write, image_size: int | None = None) -> ImageDataset:
    """A set of two classes, whose first image `write` writes."""
    for name in ("a", "b"):
        (folder / name).mkdir()
    write(folder / "a")
    Image.new("RGB", (8, 8)).save(folder / "b" / "x.png")
    return load_dataset(folder, image_size=image_size)


def animated(kind: str, mode: str, **options: Any) -> Write:
    def write(folder: Path) -> None:
        first, *others = (Image.new("RGB", (8, 8), c).convert(mode) for c in (RED, GREEN))
        path = folder / f"x.{kind}"
        first.save(path, save_all=True, append_images=others, **options)

    return write


def two_pictures(folder: Path) -> None:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN))
    first.save(folder / "x.jpg", format="MPO", save_all=True, append_images=[second], quality=95)


def another_name(folder: Path) -> None:
    Image.new("RGB", (8, 8), RED).save(folder / "Été 100 %.JPG", format="PNG")


def broken_exif(folder: Path) -> None:
    Image.new("RGB", (8, 8), RED).save(folder / "x.jpg", exif=b"Exif\0\0garbage!", quality=95)


@pytest.mark.parametrize(
    "write",
    [
        animated("gif", "P"),
        animated("png", "RGBA", default_image=True),
        animated("webp", "RGB", lossless=True),
        two_pictures,
        another_name,
        broken_exif,
    ],
    ids=["gif", "apng", "webp", "mpo", "name", "exif"],
)
def test_the_first_picture_of_a_file_is_read(tmp_path: Path, write: Write) -> None:
    first = beside(tmp_path, write).images[0]
    np.testing.assert_allclose(first.reshape(-1, 3), [RED] * 64, atol=3)


def test_transparency_by_entry_of_a_palette_is_white(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        picture = Image.fromarray(np.repeat([0, 1], 32).astype(np.uint8).reshape(8, 8)).convert("P")
        picture.putpalette([0, 0, 0, *RED])
        picture.save(folder / "x.png", transparency=bytes([0, 255]))

    first = beside(tmp_path, write).images[0]
    assert [tuple(first[row, 0].tolist()) for row in (0, 7)] == [WHITE, RED]


def test_resizing_draws_no_dark_edge_around_what_is_transparent(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        picture = np.zeros((64, 64, 4), np.uint8)  # transparent, and black below
        picture[16:48, 16:48] = 255
        Image.fromarray(picture).save(folder / "x.png")

    assert beside(tmp_path, write, image_size=20).images[0].min() == 255


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_files_are_closed_once_they_are_read(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        for number in range(50):
            Image.new("RGB", (8, 8)).save(folder / f"{number}.png")

    before = len(os.listdir("/proc/self/fd"))
    images = beside(tmp_path, write).images
    assert images[np.arange(51)].shape == (51, 8, 8, 3)
    assert len(os.listdir("/proc/self/fd")) == before
