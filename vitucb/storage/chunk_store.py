"""A store of bytes under the name of their SHA-256 sum, so that equal bytes are kept once.

Arrays are cut at fixed offsets. What only grows (replay images, rows of a covariance) therefore
shares all but its last chunk with the checkpoint before, and a damaged chunk cannot be read
unnoticed.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Collection, Sequence
from pathlib import Path

from vitucb.storage.atomic_files import create_file, drop_leftovers, sync, temporary_beside
from vitucb.storage.foreign_files import open_regular

CHUNK_BYTES = 4 * 1024 * 1024
_NAME = re.compile(r"[0-9a-f]{64}")


class ChunkStore:
    """The chunks in one folder.

    Attributes:
        used: Names of the chunks put since the store was opened.
    """

    def __init__(self, folder: Path) -> None:
        """Open the store in `folder`, made when the first chunk is put.

        Raises:
            ValueError: If it is a link: chunks are deleted where they are not used.
        """
        if folder.is_symlink():
            raise ValueError(f"{folder} is a link; put the folder itself there")
        self.folder = folder
        self.used: set[str] = set()

    def put(self, data: memoryview) -> list[str]:
        """Store `data` (n,) uint8; the names of its chunks, in order."""
        starts = range(0, len(data), CHUNK_BYTES)
        return [self._put_chunk(data[start : start + CHUNK_BYTES]) for start in starts]

    def _put_chunk(self, chunk: memoryview) -> str:
        name = hashlib.sha256(chunk).hexdigest()
        self.used.add(name)
        path = self.folder / name
        if _is_chunk(path, len(chunk)):
            return name
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(path)
        with create_file(temporary) as file:
            file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        # The folder is synced once, by `sync`, not for each of thousands of chunks.
        temporary.replace(path)
        return name

    def sync(self) -> None:
        """Wait until the names of all chunks are on disk."""
        if self.folder.is_dir():
            sync(self.folder)

    def size_of(self, names: Collection[str]) -> int:
        """Bytes on disk of the chunks of these names, each counted once."""
        paths = [self.folder / name for name in set(names) if _NAME.fullmatch(name)]
        return sum(path.stat().st_size for path in paths if path.is_file())

    def read_into(self, data: memoryview, names: Sequence[str]) -> None:
        """Fill `data` with what `put` stored under `names`.

        Raises:
            ValueError: If a chunk is missing, damaged or too long or short.
        """
        at = 0
        for name in names:
            chunk = self._read(name)
            if at + len(chunk) > len(data):
                raise ValueError(f"chunk {name} is longer than its array")
            data[at : at + len(chunk)] = chunk
            at += len(chunk)
        if at != len(data):
            raise ValueError(f"{len(data) - at} bytes of an array are missing")

    def _read(self, name: str) -> bytes:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name[:80]!r} is no name of a chunk")
        try:
            with open_regular(self.folder / name) as file:
                chunk = file.read(CHUNK_BYTES + 1)
        except OSError as error:
            raise ValueError(f"chunk {name} is missing: {error.strerror}") from error
        if hashlib.sha256(chunk).hexdigest() != name:
            raise ValueError(f"chunk {name} is damaged: its SHA-256 sum differs")
        return chunk

    def keep_only(self, names: Collection[str]) -> None:
        """Delete every other chunk."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                # Chunks, and halves of them that older versions left; nothing else is ours.
                if _NAME.fullmatch(path.name.removesuffix(".tmp")) and path.name not in names:
                    path.unlink()
            drop_leftovers(self.folder)


def _is_chunk(path: Path, size: int) -> bool:
    """Whether `path` is a regular file, and no link to one, of `size` bytes."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size
