"""Decoded images on disk, each with a checksum: image sets larger than memory, decoded once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitucb.storage.atomic_files import create_file, temporary_beside

_FILLED = 1 << 32
"""Set in the checksum of a row that was written; 0 means empty."""


def data_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """Where downloads and decoded images go: `folder`, else $VITUCB_DATA, else ~/.cache/vitucb."""
    return Path(folder or os.environ.get("VITUCB_DATA") or "~/.cache/vitucb").expanduser()


class DecodedCache:
    """N decoded images in one `.npy` file, filled row by row as they are first looked at.

    Every row has a CRC-32, written after it: a row that was cut short, damaged, or is being written
    by another process does not match and is decoded anew. So processes may share a cache without
    locks. The name of the file depends on `fingerprint`; files of the same set with another one
    are removed.

    Args:
        folder: Where the files go; made if absent.
        name: The data set.
        fingerprint: Changes whenever the encoded images do.
        shape: (N, H, W, 3).

    Raises:
        ValueError: If the files cannot be made, e.g. for lack of space.
    """

    def __init__(self, folder: Path, name: str, fingerprint: bytes, shape: tuple[int, ...]) -> None:
        self._made_of = (folder, name, fingerprint, shape)
        prefix = _digest(name.encode(), repr(shape[1:]).encode())
        stem = f"{prefix}-{_digest(fingerprint, repr(shape).encode())}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._images = _open_array(folder / f"{stem}.npy", shape, np.uint8)
            self._checksums = _open_array(folder / f"{stem}.crc.npy", shape[:1], np.uint64)
        except OSError as error:
            mib = np.prod(shape, dtype=float) / 2**20
            raise ValueError(
                f"cache_folder {str(folder)!r}: {mib:,.0f} MiB of decoded images of {name!r} do "
                f"not go there: {error.strerror or error}; give another folder or no disk_cache"
            ) from error
        self._is_checked = np.zeros(shape[0], np.bool_)
        for stale in folder.glob(f"{prefix}-*.npy"):
            if not stale.name.startswith(stem):
                with contextlib.suppress(OSError):
                    stale.unlink()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._made_of  # another process opens the same files

    def get(self, index: int) -> NDArray[np.uint8] | None:
        """A copy of image `index` (H, W, 3), or None if it is absent or damaged."""
        expected = int(self._checksums[index])
        if not expected:
            return None
        image: NDArray[np.uint8] = np.array(self._images[index])
        if not self._is_checked[index]:  # once per process: a row that is whole stays so
            if expected != _checksum(image):
                return None
            self._is_checked[index] = True
        return image

    def put(self, index: int, image: NDArray[np.uint8]) -> None:
        """Keep image `index`, uint8 (H, W, 3)."""
        self._images[index] = image
        self._checksums[index] = _checksum(image)


def _checksum(image: NDArray[np.uint8]) -> int:
    return zlib.crc32(np.ascontiguousarray(image).data) | _FILLED


def _digest(*parts: bytes) -> str:
    """Hash of `parts`; lengths keep ("ab", "c") and ("a", "bc") apart."""
    joined = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hashlib.blake2b(joined, digest_size=12).hexdigest()


def _open_array(path: Path, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """The array in `path`, made of zeros if there is none of that shape and type."""
    with contextlib.suppress(FileNotFoundError, ValueError, EOFError):
        array: NDArray[Any] = np.load(path, mmap_mode="r+", allow_pickle=False)
        if array.shape == shape and array.dtype == dtype:
            return array
    # Made beside and moved: a file that another process has mapped must never shrink.
    temporary = temporary_beside(path)
    try:
        _write_zeros(temporary, shape, np.dtype(dtype))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    made: NDArray[Any] = np.load(path, mmap_mode="r+", allow_pickle=False)
    return made


def _write_zeros(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    with create_file(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        size = file.tell() + int(np.prod(shape)) * dtype.itemsize
        file.flush()
        # Reserved now: writing to a hole of a mapped file on a full disk kills the process.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
        if shutil.disk_usage(path.parent).free < size:
            raise OSError("not enough space")
        file.truncate(size)
