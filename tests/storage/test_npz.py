"""What an NPZ file claims is checked before memory is set aside."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitucb.storage.npz import read_npz


def forged(path: Path, shape: tuple[int, ...], descr: str = "|u1", body: bytes = b"") -> Path:
    stream = io.BytesIO()
    header: dict[str, Any] = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", stream.getvalue() + body)
    return path


def test_arrays_come_back(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"a": np.arange(6).reshape(2, 3), "b": np.array(["x", "yz"])}
    np.savez_compressed(tmp_path / "a.npz", **arrays, other=np.arange(3))
    found = read_npz(tmp_path / "a.npz", ("a", "b", "c"))
    assert list(found) == ["a", "b"]
    np.testing.assert_array_equal(found["a"], arrays["a"])
    np.testing.assert_array_equal(found["b"], arrays["b"])
    transposed = np.asfortranarray(arrays["a"])
    np.savez(tmp_path / "f.npz", a=transposed)
    np.testing.assert_array_equal(read_npz(tmp_path / "f.npz", ["a"])["a"], transposed)


@pytest.mark.parametrize(
    ("shape", "descr", "body"),
    [
        ((10**12,), "|u1", b""),
        ((10**6, 10**6, 10**6), "<f8", b"12345678"),
        ((2,), "|u1", b"1"),
        ((2,), "|u1", b"123"),
        ((-1, -4), "|u1", b"1234"),
    ],
)
def test_a_shape_that_the_file_does_not_hold_is_refused(
    shape: tuple[int, ...], descr: str, body: bytes, tmp_path: Path
) -> None:
    path = forged(tmp_path / "a.npz", shape, descr, body)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"array 'images' is said to be .* but {len(body)}"):
            read_npz(path, ["images"])
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_what_would_fill_the_memory_is_refused_and_only_if_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeros = np.zeros(4 << 20, np.uint8)
    np.savez_compressed(tmp_path / "a.npz", images=zeros, labels=np.arange(3))
    monkeypatch.setenv("VITUCB_LIMIT_NPZ_MIB", "3")
    assert len(read_npz(tmp_path / "a.npz", ["labels"])["labels"]) == 3
    with pytest.raises(ValueError, match=r"times its size.* in MiB, 4 is above the limit of 3"):
        read_npz(tmp_path / "a.npz", ["images", "labels"])
    np.savez(tmp_path / "b.npz", images=zeros)  # as large as it says
    assert len(read_npz(tmp_path / "b.npz", ["images"])["images"]) == 4 << 20


def test_every_flipped_bit_is_found_or_harmless(tmp_path: Path) -> None:
    path, array = tmp_path / "a.npz", np.random.default_rng(0).integers(0, 9, (20, 30), np.uint8)
    np.savez_compressed(path, images=array)
    whole = path.read_bytes()
    refused = 0
    for at in range(len(whole)):
        broken = bytearray(whole)
        broken[at] ^= 4
        path.write_bytes(broken)
        try:
            found = read_npz(path, ["images"])
        except (ValueError, OSError) as error:
            assert "\n" not in str(error)  # noqa: PT017  it may also be harmless
            refused += 1
        else:
            for each in found.values():
                np.testing.assert_array_equal(each, array)
    assert refused > 0.8 * len(whole)


def test_what_is_no_archive_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(ValueError, match="single array"):
        read_npz(tmp_path / "a.npy", ["a"])
    (tmp_path / "b.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="no whole zip archive"):
        read_npz(tmp_path / "b.npz", ["a"])
