"""Pixels of every kind of file come out as a viewer shows them, over white, or are refused."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.envs.tiny_datasets import assert_refused
from vitucb.envs.data.conversion import decoded_rgb, to_rgb
from vitucb.envs.data.datasets import load_dataset
from vitucb.envs.data.decoding import open_image


def _png(bits: int, colour_type: int, row: bytes, width: int, transparent: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, 1, bits, colour_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"tRNS", transparent)
    chunks += chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b"")


def _tiff(
    row: bytes, width: int, bits: int, *, photometric: int = 1, sample_format: int = 1
) -> bytes:
    """A gray little-endian TIFF of one line."""
    start = 8 + 2 + 10 * 12 + 4
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, photometric)]
    tags += [(273, start)]
    tags += [(277, 1), (278, 1), (279, len(row)), (339, sample_format)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + row


def _read(content: bytes) -> NDArray[np.uint8]:
    with open_image(io.BytesIO(content)) as image:
        image.load()
        pixels: NDArray[np.uint8] = np.asarray(decoded_rgb(image), np.uint8)[0]
    return pixels


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(np.full((2, 2), 0x4000, np.uint16)), [64, 64, 64]),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), [255, 255, 255]),
        (Image.new("LA", (2, 2), (10, 255)), [10, 10, 10]),
        (Image.new("La", (2, 2), (10, 255)), [10, 10, 10]),
        (Image.new("RGBa", (2, 2), (64, 64, 64, 128)), [191, 191, 191]),
        (Image.new("CMYK", (2, 2), (0, 0, 0, 255)), [0, 0, 0]),
        (Image.new("1", (2, 2), 1), [255, 255, 255]),
        (Image.new("RGB", (2, 2), (1, 2, 3)).quantize(), [1, 2, 3]),
    ],
    ids=["gray16", "transparent", "gray-alpha", "La", "RGBa", "cmyk", "binary", "palette"],
)
def test_every_mode_becomes_rgb(image: Image.Image, expected: list[int]) -> None:
    assert np.asarray(to_rgb(image))[0, 0].tolist() == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (_png(8, 2, bytes([0, 0, 0, 1, 2, 3]), 2, bytes(6)), [[255, 255, 255], [1, 2, 3]]),
        (
            _png(16, 2, struct.pack(">6H", *[0x1234] * 3, 0, 0, 0), 2, b"\x12\x34" * 3),
            [[255, 255, 255], [0, 0, 0]],
        ),
        (_png(2, 0, bytes([0b01_10_00_00]), 2, b"\0\1"), [[255] * 3, [170] * 3]),
        (_png(4, 0, bytes([0x7F]), 2, b"\0\7"), [[255] * 3, [255] * 3]),
        (_png(4, 0, bytes([0x78]), 2, b"\0\7"), [[255] * 3, [136] * 3]),
        (_png(8, 0, bytes([7, 8]), 2, b"\0\7"), [[255] * 3, [8] * 3]),
    ],
    ids=["rgb", "rgb-16", "gray-2", "gray-4-white", "gray-4", "gray-8"],
)
def test_the_transparent_colour_of_a_png_is_white(
    content: bytes, expected: list[list[int]]
) -> None:
    assert _read(content).tolist() == expected


def test_a_transparent_colour_is_said_once_like_other_conversions(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("RGB", (2, 2)).save(tmp_path / name / "0.png", transparency=(0, 0, 0))
    with caplog.at_level(logging.WARNING):
        assert load_dataset(tmp_path).images[np.arange(2)].min() == 255
    assert caplog.text.count("0.png is transparent; it and others") == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (_tiff(bytes([0, 255]), 2, 8), [0, 255]),
        (_tiff(bytes([0, 255]), 2, 8, photometric=0), [255, 0]),
        (_tiff(bytes([0x00, 0x08, 0x00, 0xFF, 0xF0, 0x10]), 4, 12), [0, 128, 255, 1]),
        (_tiff(struct.pack("<3H", 0, 0x8000, 0xFFFF), 3, 16), [0, 128, 255]),
        (_tiff(struct.pack("<3H", 0, 0x8000, 0xFFFF), 3, 16, photometric=0), [255, 127, 0]),
    ],
    ids=["8", "8-white-is-zero", "12", "16", "16-white-is-zero"],
)
def test_gray_tiff_files_spread_over_8_bits(content: bytes, expected: list[int]) -> None:
    assert _read(content)[:, 1].tolist() == expected


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_signed_samples_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="signed or 32-bit integers of unknown range"):
        open_image(io.BytesIO(_tiff(bytes(4), 1, bits, sample_format=2)))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\xff\x0a" + bytes(20), "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20), "JPEG 2000"),
        (_tiff(bytes(5), 4, 10), "a TIFF file with samples of a kind"),
    ],
)
def test_a_format_that_is_not_read_is_named(tmp_path: Path, content: bytes, kind: str) -> None:
    for source in (io.BytesIO(content), tmp_path / "image.png"):
        if isinstance(source, Path):
            source.write_bytes(content)
        with pytest.raises(ValueError, match=f"it is {kind} that is not read; convert it to JPEG"):
            open_image(source)


@pytest.mark.parametrize("name", ["IMG_1.HEIC", "2.heif", "3.jxl", "4.jp2"])
def test_a_picture_that_is_not_read_counts_as_unreadable(tmp_path: Path, name: str) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
        Image.new("RGB", (2, 2)).save(tmp_path / folder / "0.png")
    (tmp_path / "b" / name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert_refused(
        tmp_path, rf"1 of 3 images cannot be read; the first: .*{name}: .* HEIC .* set skip_bad"
    )
    assert len(load_dataset(tmp_path, skip_bad=True).images) == 2
