"""What is said and done about images that are broken, too large, or not RGB."""

from __future__ import annotations

import io
import logging
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

import vitucb
from vitucb.config import RunConfig, override
from vitucb.envs.data.datasets import load_dataset
from vitucb.experiment.environments import make_env
from vitucb.storage.limits import Limits


def test_a_picture_read_alone_is_that_of_a_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    for name, mode in (("a", "RGBA"), ("b", "LA"), ("c", "P")):
        (folder / name).mkdir(parents=True)
        exif = Image.Exif()
        exif[274] = 6  # to be turned
        Image.effect_noise((20, 12), 90).convert(mode).save(folder / name / "0.png", exif=exif)
    dataset = load_dataset(str(folder), image_size=16)
    for index, name in enumerate("abc"):
        alone = vitucb.read_image(folder / name / "0.png", 16)
        np.testing.assert_array_equal(alone, dataset.images[index])
    assert vitucb.read_image(folder / "a" / "0.png").shape == (20, 12, 3)


@pytest.mark.parametrize("content", [None, b"no picture"])
def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read image .*x\.png: .*; mend or remove it"):
        vitucb.read_image(tmp_path / "x.png")


def _noise(count: int, size: int = 16) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def _folder(root: Path, bad: tuple[int, ...] = ()) -> Path:
    """Two classes of four PNG files; the `bad` ones of class b are damaged in the middle."""
    for name in "ab":
        (root / name).mkdir(parents=True)
        for index, image in enumerate(_noise(4)):
            file = root / name / f"{index}.png"
            Image.fromarray(image).save(file)
            if name == "b" and index in bad:
                content = file.read_bytes()
                file.write_bytes(content[:300] + bytes(200) + content[500:])
    return root


def _png_header(width: int, height: int) -> bytes:
    """A few bytes that claim to be a picture of any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def test_skipping_leaves_out_what_cannot_be_read_and_counts_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = _folder(tmp_path, bad=(1, 3))
    dataset = load_dataset(root, skip_bad=True)
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 0, 0, 1, 1]
    kept = [*_noise(4), _noise(4)[0], _noise(4)[2]]
    assert np.array_equal(dataset.images[np.arange(6)], np.stack(kept))
    assert "2 of 8 images cannot be read; the first: " in caplog.text
    assert caplog.text.count("they are left out") == 1


def test_the_first_image_may_be_the_broken_one(tmp_path: Path) -> None:
    root = _folder(tmp_path)
    (root / "a" / "0.png").write_bytes(b"nothing")
    assert load_dataset(root, skip_bad=True).images.shape == (7, 16, 16, 3)


def test_a_class_without_readable_images_leaves_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = _folder(tmp_path, bad=(0, 1, 2, 3))
    (root / "c").mkdir()
    Image.fromarray(_noise(1)[0]).save(root / "c" / "0.png")
    dataset = load_dataset(root, skip_bad=True)
    assert dataset.class_names == ("a", "c")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 0, 0, 1]
    assert "no image left of class b" in caplog.text


def test_a_set_without_one_readable_image_is_refused_all_the_same(tmp_path: Path) -> None:
    root = _folder(tmp_path)
    for file in root.rglob("*.png"):
        file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"8 of 8 images cannot be read; .*; nothing is left"):
        load_dataset(root, skip_bad=True)


def test_skipping_works_in_jpeg_streams(tmp_path: Path) -> None:
    files = []
    for image in _noise(4):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG")
        files.append(stream.getvalue())
    files[2] = files[2][:100]
    arrays: dict[str, Any] = {
        "jpeg": np.frombuffer(b"".join(files), np.uint8),
        "offsets": np.cumsum([0, *map(len, files)]),
        "labels": np.array([5, 6, 6, 6]),
        "scores": np.arange(4.0),
    }
    np.savez(tmp_path / "set.npz", **arrays)
    dataset = load_dataset(tmp_path / "set.npz", skip_bad=True)
    assert dataset.scores is not None
    assert dataset.scores.tolist() == [0, 1, 3]
    assert np.array_equal(dataset.images[2], np.asarray(Image.open(io.BytesIO(files[3]))))


def test_a_config_skips_bad_images(tmp_path: Path) -> None:
    values = {"dataset": str(_folder(tmp_path, bad=(1,))), "num_arms": 2}
    config = override(RunConfig(), {"env": values | {"data": {"skip_bad": True}}})
    env: Any = make_env(config.env).unwrapped
    assert len(env.dataset.images) == 7


@pytest.mark.parametrize("size", [(8_000, 8_000), (9_900, 9_900), (50_000, 50_000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_small_file_that_claims_a_huge_picture_is_refused(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    root = _folder(tmp_path)
    (root / "a" / "bomb.png").write_bytes(_png_header(*size))
    with pytest.raises(ValueError, match=r"1 of 9 images .*bomb.png: .*(limit|decompression bomb)"):
        load_dataset(root)
    assert len(load_dataset(root, skip_bad=True).images) == 8


def test_an_archive_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITUCB_LIMIT_NPZ_MIB", "1")
    images = np.zeros((8, 512, 512, 3), np.uint8)
    np.savez_compressed(tmp_path / "bomb.npz", images=images, labels=np.arange(8))
    assert (tmp_path / "bomb.npz").stat().st_size < 20_000
    with pytest.raises(
        ValueError,
        match=r"times its size, as no real images .* in MiB, 6 is above the limit of 1; ",
    ):
        load_dataset(tmp_path / "bomb.npz")
    np.savez(tmp_path / "large.npz", images=images, labels=np.arange(8))
    assert len(load_dataset(tmp_path / "large.npz").images) == 8


def test_a_size_that_would_fill_the_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="image_size 100000 makes more than 50,000,000 pixels"):
        load_dataset("digits", image_size=100_000)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are of Unix")
def test_a_pipe_among_the_images_does_not_block(tmp_path: Path) -> None:
    root = _folder(tmp_path)
    os.mkfifo(root / "a" / "pipe.png")
    with pytest.raises(ValueError, match=r"1 of 9 images .*pipe.png: no such file"):
        load_dataset(root)


def test_formats_that_run_other_programs_are_not_opened(tmp_path: Path) -> None:
    root = _folder(tmp_path)
    (root / "a" / "x.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n")
    assert len(load_dataset(root).images) == 8
    (root / "a" / "x.eps").rename(root / "a" / "x.png")
    with pytest.raises(ValueError, match=r"1 of 9 images .*cannot identify image"):
        load_dataset(root)


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.new("L", (4, 4)), "grayscale"),
        (Image.new("RGBA", (4, 4)), "transparent"),
        (Image.fromarray(np.zeros((4, 4), np.uint16)), "16-bit grayscale"),
        (Image.new("CMYK", (4, 4)), "CMYK"),
    ],
    ids=["gray", "alpha", "16-bit", "cmyk"],
)
def test_conversion_to_rgb_is_said_once(
    tmp_path: Path, image: Image.Image, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for index in range(2):
            image.save(tmp_path / name / f"{index}.tiff")
    with caplog.at_level(logging.WARNING):
        assert load_dataset(tmp_path).images[np.arange(4)].shape == (4, 4, 4, 3)
    assert caplog.text.count("are converted") == 1
    assert f"0.tiff is {kind}; it and others" in caplog.text


@pytest.mark.parametrize("orientation", range(10))
def test_photographs_stand_upright(tmp_path: Path, orientation: int) -> None:
    tagged = Image.fromarray(_noise(1)[0]).resize((6, 4))
    exif = tagged.getexif()
    exif[0x0112] = orientation
    for name in "ab":
        (tmp_path / name).mkdir()
        tagged.save(tmp_path / name / "0.png", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "a" / "0.png"))
    assert np.array_equal(load_dataset(tmp_path).images[0], np.asarray(expected))


def test_floats_of_unknown_range_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / name / "0.tiff")
    with pytest.raises(ValueError, match=r"a.0\.tiff: its pixels are floats of unknown range"):
        load_dataset(tmp_path)


def test_integers_of_unknown_range_are_refused_at_load(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((4, 4), 200, np.int32)).save(tmp_path / name / "0.tiff")
    with pytest.raises(ValueError, match=r"2 of 2 images .* 32-bit integers of unknown range"):
        load_dataset(tmp_path)


def test_the_transparent_level_of_a_16_bit_image_is_white(tmp_path: Path) -> None:
    gray = Image.fromarray(np.array([[0, 512], [40_960, 0]], np.uint16))
    for name in "ab":
        (tmp_path / name).mkdir()
        gray.save(tmp_path / name / "0.png", transparency=0)
    assert load_dataset(tmp_path).images[0][..., 0].tolist() == [[255, 2], [160, 255]]


def test_rgb_images_are_not_talked_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = load_dataset(_folder(tmp_path))
    assert len(dataset.images[np.arange(8)]) == 8
    assert caplog.text == ""


def test_the_limit_on_pixels_is_that_of_pillow_or_below() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert Limits().image_pixels <= Image.MAX_IMAGE_PIXELS
