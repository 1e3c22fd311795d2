"""Whatever a file holds, loading it ends in a data set or in a ValueError of one line."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitucb.envs.data.datasets import load_dataset

# Pillow warns about much of this; in a test run that would be an error, in a user's it is not.
pytestmark = pytest.mark.filterwarnings("ignore")
FUZZ = settings(max_examples=60, deadline=None)


def _encode(kind: str) -> bytes:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8))
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


FILES = {kind: _encode(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")}


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """A picture with bytes changed, cut or repeated, or bytes that never were one."""
    content = bytearray(draw(st.sampled_from([*FILES.values(), b""])))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        content[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


def _loads_or_refuses(path: Path | str, **kwargs: Any) -> None:
    try:
        dataset = load_dataset(path, **kwargs)
        for index in range(len(dataset.images)):
            assert dataset.images[index].shape == dataset.images.shape[1:]
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017  the data set may also load
        assert len(str(error)) < 2000  # noqa: PT017


@FUZZ
@given(
    content=damaged_files(),
    kind=st.sampled_from(["png", "jpg", "gif", "tiff", "ppm"]),
    skip_bad=st.booleans(),
    disk_cache=st.booleans(),
)
def test_image_files(content: bytes, kind: str, skip_bad: bool, disk_cache: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "set")
        for name in "ab":
            (root / name).mkdir(parents=True)
            (root / name / "1.png").write_bytes(FILES["PNG"])
        (root / "a" / f"0.{kind}").write_bytes(content)
        options = {"disk_cache": disk_cache, "cache_folder": Path(folder, "cache")}
        _loads_or_refuses(root, skip_bad=skip_bad, **options)


@FUZZ
@given(
    files=st.lists(damaged_files(), min_size=1, max_size=3),
    offsets=st.lists(st.integers(-2, 2000), max_size=5) | st.none(),
    labels=st.lists(st.integers(-3, 3), max_size=4),
    skip_bad=st.booleans(),
)
def test_jpeg_streams(
    files: list[bytes], offsets: list[int] | None, labels: list[int], skip_bad: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "set.npz")
        arrays: dict[str, Any] = {
            "jpeg": np.frombuffer(b"".join(files), np.uint8),
            "offsets": np.cumsum([0, *map(len, files)]) if offsets is None else np.array(offsets),
            "labels": np.array(labels),
        }
        np.savez(path, **arrays)
        _loads_or_refuses(path, skip_bad=skip_bad)


@FUZZ
@given(at=st.integers(0, 1000), change=st.binary(max_size=8), cut=st.booleans())
def test_npz_files(at: int, change: bytes, cut: bool) -> None:
    stream = io.BytesIO()
    np.savez_compressed(stream, images=np.zeros((2, 3, 3), np.uint8), labels=np.arange(2))
    content = bytearray(stream.getvalue())
    content[at : at + len(change)] = change
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "set.npz")
        path.write_bytes(content[:at] if cut else content)
        _loads_or_refuses(path)


CELLS = st.sampled_from(["path", "label", "score", "a.png", "b.png", "1", "-2.5", "", "nan", '"'])


@FUZZ
@given(
    content=st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.lists(st.lists(CELLS | st.text(max_size=4), max_size=4), max_size=5).map(
        lambda rows: "\n".join(map(",".join, rows)).encode("utf-8", "surrogatepass")
    )
    | st.lists(st.tuples(CELLS | st.text(max_size=300), CELLS), max_size=5).map(
        lambda rows: "\n".join(["path,label", *map(",".join, rows)]).encode("utf-8", "replace")
    ),
    skip_bad=st.booleans(),
)
def test_manifests(content: bytes, skip_bad: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.png", "b.png"):
            Path(folder, name).write_bytes(FILES["PNG"])
        path = Path(folder, "set.csv")
        path.write_bytes(content)
        _loads_or_refuses(path, skip_bad=skip_bad)
        _loads_or_refuses(f"{path}#score", skip_bad=skip_bad)


@FUZZ
@given(
    name=st.text(max_size=40)
    | st.just("")
    | st.text(min_size=300, max_size=5000)
    | st.just("~nobody/a.csv")
)
def test_names(name: str) -> None:
    is_download = name.partition("/")[0].partition("#")[0] in ("torch", "hfds")
    if (
        not name.startswith("digits") and not is_download and not os.path.isdir(name)
    ):  # "/" is a folder of images, and a large one
        with pytest.raises(ValueError, match="dataset"):
            load_dataset(name)
