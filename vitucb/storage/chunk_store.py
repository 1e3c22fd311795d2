"""A store of bytes under the name of their SHA-256 sum, so that equal bytes are kept once.

Arrays are cut at fixed offsets. What only grows (replay images, rows of a covariance) therefore
shares all but its last piece with the checkpoint before, and a damaged piece cannot be read
unnoticed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from vitucb.storage.atomic_files import sync

PIECE_BYTES = 4 * 1024 * 1024


class Pieces:
    """The pieces in one folder.

    Attributes:
        used: Names of the pieces put since the store was opened.
    """

    def __init__(self, folder: Path) -> None:
        """Open the store in `folder`, made when the first piece is put."""
        self.folder = folder
        self.used: set[str] = set()

    def put(self, data: memoryview) -> list[str]:
        """Store `data` (n,) uint8; the names of its pieces, in order."""
        starts = range(0, len(data), PIECE_BYTES)
        return [self._put_piece(data[start : start + PIECE_BYTES]) for start in starts]

    def _put_piece(self, piece: memoryview) -> str:
        name = hashlib.sha256(piece).hexdigest()
        self.used.add(name)
        path = self.folder / name
        if path.is_file() and path.stat().st_size == len(piece):
            return name
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        # The folder is synced once, by `sync`, not for each of thousands of pieces.
        temporary.replace(path)
        return name

    def sync(self) -> None:
        """Wait until the names of all pieces are on disk."""
        if self.folder.is_dir():
            sync(self.folder)

    def read_into(self, data: memoryview, names: Sequence[str]) -> None:
        """Fill `data` with what `put` stored under `names`.

        Raises:
            ValueError: If a piece is missing, damaged or too long or short.
        """
        at = 0
        for name in names:
            piece = self._read(name)
            if at + len(piece) > len(data):
                raise ValueError(f"piece {name} is longer than its array")
            data[at : at + len(piece)] = piece
            at += len(piece)
        if at != len(data):
            raise ValueError(f"{len(data) - at} bytes of an array are missing")

    def _read(self, name: str) -> bytes:
        try:
            piece = (self.folder / name).read_bytes()
        except OSError as error:
            raise ValueError(f"piece {name} is missing: {error.strerror}") from error
        if hashlib.sha256(piece).hexdigest() != name:
            raise ValueError(f"piece {name} is damaged: its SHA-256 sum differs")
        return piece

    def keep_only(self, names: Collection[str]) -> None:
        """Delete every other piece."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if path.name not in names:
                    path.unlink()
