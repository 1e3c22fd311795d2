"""NPZ files of plain arrays whose claims are checked before memory is set aside for them."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vitucb.storage.foreign_files import open_regular
from vitucb.storage.limits import check_limit, limit

_SUFFIX = ".npy"
_BLOCK = 1 << 20


def read_npz(path: Path, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Those arrays of an NPZ file that are called one of `names`, in the order of the file.

    Raises:
        OSError: If it is no regular file that can be read.
        ValueError: If it is damaged, holds objects, or claims more than the limits allow; the
            reason is one line and does not name the file.
    """
    with open_regular(path) as stream:
        try:
            return _read(stream, names)
        except (OSError, MemoryError):
            raise
        # A damaged file makes zipfile, zlib and numpy raise many kinds.
        except Exception as error:
            raise ValueError(_first_line(error)) from error


def _read(stream: BinaryIO, names: Collection[str]) -> dict[str, NDArray[Any]]:
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile:
        stream.seek(0)
        is_array = stream.read(6) == np.lib.format.MAGIC_PREFIX
        problem = "it holds a single array" if is_array else "it is no whole zip archive"
        raise ValueError(problem) from None
    with archive:
        members = [m for m in archive.infolist() if m.filename.removesuffix(_SUFFIX) in names]
        _check_sizes(members, os.fstat(stream.fileno()).st_size)
        return {m.filename.removesuffix(_SUFFIX): _array(archive, m) for m in members}


def _check_sizes(members: Collection[zipfile.ZipInfo], on_disk: int) -> None:
    """Refuse a file that would fill the memory; reading stops at the sizes it declares."""
    size = sum(member.file_size for member in members)
    if size > limit("npz_ratio") * on_disk:
        check_limit(
            "npz_mib",
            size >> 20,
            f"it holds {size // max(1, on_disk):,} times its size, as no real images do (np.savez "
            "without compression if yours do): its arrays in MiB,",
        )


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    name = member.filename.removesuffix(_SUFFIX)
    with archive.open(member) as stream:
        shape, is_fortran, dtype = _header(stream)
        size, held = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
        if dtype.hasobject:
            raise ValueError("Object arrays cannot be loaded: that may run code")
        if min(shape, default=0) < 0 or size != held:
            raise ValueError(f"array {name!r} is said to be {dtype} {shape}, but {held:,} bytes")
        array = np.empty(math.prod(shape), dtype)
        if size:
            _fill(array.view(np.uint8).data, stream)
        stream.read(1)  # its checksum is looked at behind its end
    return array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)


def _fill(data: memoryview, stream: IO[bytes]) -> None:
    at = 0
    while at < len(data):
        block = stream.read(min(_BLOCK, len(data) - at))
        if not block:
            raise ValueError("an array ends too early")
        data[at : at + len(block)] = block
        at += len(block)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"its arrays are of version {version}; write it again")
    shape, is_fortran, dtype = readers[version](stream)
    return shape, is_fortran, dtype


def _first_line(error: Exception) -> str:
    lines = str(error).split("\n") if str(error) else []
    return " ".join(lines[0].split()) if lines else type(error).__name__
