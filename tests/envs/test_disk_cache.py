from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vitucb.envs.data import decoding
from vitucb.envs.data.datasets import load_dataset
from vitucb.envs.data.disk_cache import DecodedCache, data_folder
from vitucb.envs.data.image_dataset import ImageDataset


def _folder(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in "ab":
        (root / name).mkdir(parents=True)
        for index in range(3):
            image = rng.integers(0, 256, (6, 6, 3), np.uint8)
            Image.fromarray(image).save(root / name / f"{index}.png")
    return root


def _load(tmp_path: Path, **kwargs: Any) -> ImageDataset:
    return load_dataset(
        tmp_path / "pets", disk_cache=True, cache_folder=tmp_path / "cache", **kwargs
    )


def _all(dataset: ImageDataset) -> NDArray[np.uint8]:
    return dataset.images[np.arange(len(dataset.images))]


@pytest.fixture
def decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A folder of six images at `pets`; the list grows with every image decoded."""
    _folder(tmp_path / "pets")
    calls: list[int] = []
    decode = decoding.LazyImages._decode

    def counting(self: decoding.LazyImages, index: int) -> NDArray[np.uint8]:
        calls.append(index)
        return decode(self, index)

    monkeypatch.setattr(decoding.LazyImages, "_decode", counting)
    return calls


def test_images_are_decoded_once_for_all_processes(tmp_path: Path, decoded: list[int]) -> None:
    expected = _all(load_dataset(tmp_path / "pets"))
    decoded.clear()
    assert np.array_equal(_all(_load(tmp_path)), expected)
    assert decoded == list(range(6))
    assert np.array_equal(_all(_load(tmp_path)), expected)
    assert decoded == list(range(6))


def test_parts_of_a_set_share_its_cache(tmp_path: Path, decoded: list[int]) -> None:
    whole = _all(_load(tmp_path))
    decoded.clear()
    part = _load(tmp_path, classes=["b", "a"])
    assert np.array_equal(_all(part), whole)
    assert decoded == []


def test_a_damaged_row_is_decoded_anew(tmp_path: Path, decoded: list[int]) -> None:
    expected = _all(_load(tmp_path))
    images = next(path for path in (tmp_path / "cache/decoded").iterdir() if "crc" not in path.name)
    content = bytearray(images.read_bytes())
    content[-1] ^= 1
    images.write_bytes(content)
    decoded.clear()
    assert np.array_equal(_all(_load(tmp_path)), expected)
    assert decoded == [5]
    decoded.clear()
    assert np.array_equal(_all(_load(tmp_path)), expected)
    assert decoded == []


@pytest.mark.parametrize("length", [0, 10, 200])
def test_a_truncated_cache_is_made_anew(tmp_path: Path, decoded: list[int], length: int) -> None:
    expected = _all(_load(tmp_path))
    for file in (tmp_path / "cache/decoded").iterdir():
        file.write_bytes(file.read_bytes()[:length])
    decoded.clear()
    assert np.array_equal(_all(_load(tmp_path)), expected)
    assert len(decoded) == 6


def test_a_changed_image_is_seen_and_the_old_cache_removed(
    tmp_path: Path, decoded: list[int]
) -> None:
    before = _all(_load(tmp_path))
    files = sorted(path.name for path in (tmp_path / "cache/decoded").iterdir())
    changed = tmp_path / "pets/a/0.png"
    Image.new("RGB", (6, 6), "red").save(changed)
    os.utime(changed, ns=(1, 1))
    after = _all(_load(tmp_path))
    assert after[0, 0, 0].tolist() == [255, 0, 0]
    assert np.array_equal(after[1:], before[1:])
    now = sorted(path.name for path in (tmp_path / "cache/decoded").iterdir())
    assert len(now) == len(files) == 2
    assert now != files


def test_sizes_have_caches_of_their_own(tmp_path: Path, decoded: list[int]) -> None:
    small, large = _all(_load(tmp_path, image_size=4)), _all(_load(tmp_path, image_size=8))
    assert (small.shape, large.shape) == ((6, 4, 4, 3), (6, 8, 8, 3))
    decoded.clear()
    assert np.array_equal(_all(_load(tmp_path, image_size=4)), small)
    assert decoded == []


def test_the_cache_is_a_plain_array_file(tmp_path: Path, decoded: list[int]) -> None:
    expected = _all(_load(tmp_path))
    images = next(path for path in (tmp_path / "cache/decoded").iterdir() if "crc" not in path.name)
    assert np.array_equal(np.load(images), expected)


def test_empty_rows_are_none_and_filled_ones_are_copies(tmp_path: Path) -> None:
    cache = DecodedCache(tmp_path, "set", b"v1", (3, 2, 2, 3))
    image = np.full((2, 2, 3), 7, np.uint8)
    assert cache.get(1) is None
    cache.put(1, image)
    found = cache.get(1)
    assert found is not None
    found[:] = 0
    assert np.array_equal(cache.get(1), image)  # type: ignore[arg-type]  # not None here
    assert cache.get(0) is None


def test_two_caches_of_one_set_see_each_other(tmp_path: Path) -> None:
    first, second = (DecodedCache(tmp_path, "set", b"v1", (3, 2, 2, 3)) for _ in range(2))
    first.put(2, np.full((2, 2, 3), 9, np.uint8))
    found = second.get(2)
    assert found is not None
    assert (found == 9).all()


def test_an_image_of_zeros_is_not_taken_for_an_empty_row(tmp_path: Path) -> None:
    cache = DecodedCache(tmp_path, "set", b"v1", (1, 2, 2, 3))
    cache.put(0, np.zeros((2, 2, 3), np.uint8))
    assert cache.get(0) is not None


def test_a_folder_that_cannot_hold_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cache_folder .*file.*; give another folder or no disk"):
        DecodedCache(tmp_path / "file", "set", b"", (3, 2, 2, 3))
    with pytest.raises(
        ValueError, match="MiB of decoded images of 'set' do not go there: "
    ) as caught:
        DecodedCache(tmp_path, "set", b"", (1 << 26, 1000, 1000, 3))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_folder_is_the_argument_then_the_variable_then_the_users(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VITUCB_DATA", str(tmp_path))
    assert data_folder("here") == Path("here")
    assert data_folder() == tmp_path
    monkeypatch.delenv("VITUCB_DATA")
    assert data_folder() == Path.home() / ".cache/vitucb"
