"""Checkpoints of a run in progress: the last two, checksummed, each there whole or not at all.

checkpoint/round-000000500/   state.json, state.safetensors, manifest.json (SHA-256 sums)
checkpoint/pieces/            large arrays, shared by the checkpoints
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitucb.storage.atomic_files import (
    drop_leftovers,
    remove,
    replace_file,
    sync,
    temporary_beside,
    write_durably,
)
from vitucb.storage.chunk_store import ChunkStore
from vitucb.storage.foreign_files import check_inside, path_inside, read_json, sha256_of
from vitucb.storage.state_files import load_state, save_state
from vitucb.types import State

_logger = logging.getLogger(__name__)
_PREFIX = "round-"
_KEPT = 2


class Checkpoints:
    """The checkpoints in one folder."""

    def __init__(self, folder: Path) -> None:
        """Open `folder`, made with the first checkpoint.

        Raises:
            ValueError: If it is a link: old checkpoints are deleted there.
        """
        if folder.is_symlink():
            raise ValueError(f"{folder} is a link; put the folder itself there")
        self.folder = folder
        self._chunks_folder = folder / "pieces"

    @property
    def rounds(self) -> list[int]:
        """Rounds after which a checkpoint was written, the newest last."""
        names = [path.name.removeprefix(_PREFIX) for path in self.folder.glob(f"{_PREFIX}*")]
        return sorted(int(name) for name in names if name.isdecimal())

    def save(self, rounds: int, state: State) -> None:
        """Write the checkpoint after `rounds` rounds, then drop all but the last two."""
        final = self._path(rounds)
        temporary = temporary_beside(final)
        chunks = ChunkStore(self._chunks_folder)
        save_state({"rounds": rounds, **state}, temporary, chunks)
        chunks.sync()
        manifest = {
            "files": {path.name: sha256_of(path) for path in sorted(temporary.iterdir())},
            "pieces": sorted(chunks.used),
        }
        write_durably(temporary / "manifest.json", json.dumps(manifest, indent=1))
        remove(final)
        replace_file(temporary, final)
        self._drop_old()

    def load_newest(self, accept: Callable[[State], str | None]) -> State | None:
        """The newest whole checkpoint that `accept` has nothing against; None without one.

        The others are deleted, with a warning that says why.

        Args:
            accept: Says why a state cannot be used, or None if it can.
        """
        for rounds in reversed(self.rounds):
            try:
                state = self.load(rounds)
                reason = accept(state)
            except ValueError as error:
                reason = str(error)
            if reason is None:
                return state
            _logger.warning("checkpoint %s is passed over: %s", self._path(rounds), reason)
            # Else it would count as one of the two that are kept.
            remove(self._path(rounds))
        return None

    def load(self, rounds: int) -> State:
        """The checkpoint after `rounds` rounds.

        Raises:
            ValueError: If it is missing or damaged.
        """
        folder = self._path(rounds)
        check_inside(self.folder, folder)
        files = _manifest(folder)["files"]
        for name in ("state.json", "state.safetensors"):
            if name not in files:
                raise ValueError(f"{name} is not in its manifest")
        for name, digest in files.items():
            path = path_inside(folder, name)
            if not path.is_file() or sha256_of(path) != digest:
                raise ValueError(f"{name} is missing or damaged: its SHA-256 sum differs")
        return load_state(folder, ChunkStore(self._chunks_folder), keep_devices=True)

    def clear(self) -> None:
        """Delete all checkpoints of the way."""
        for path in self.folder.glob(f"{_PREFIX}*"):
            remove(path)
        drop_leftovers(self.folder)
        remove(self._chunks_folder)

    def begin_anew(self) -> None:
        """Delete all checkpoints, and what a finished run left of its agent."""
        self.clear()
        for name in ("state.json", "state.safetensors", "adapter"):
            remove(self.folder / name)

    def _drop_old(self) -> None:
        drop_leftovers(self.folder)
        for path in self.folder.glob(f"{_PREFIX}*.tmp"):  # of older versions
            remove(path)
        for rounds in self.rounds[:-_KEPT]:
            remove(self._path(rounds))
        sync(self.folder)
        used: set[str] = set()
        for rounds in self.rounds:
            try:
                used.update(_manifest(self._path(rounds))["pieces"])
            except ValueError:
                return  # damaged: which chunks it needs is not known
        ChunkStore(self._chunks_folder).keep_only(used)

    def _path(self, rounds: int) -> Path:
        return self.folder / f"{_PREFIX}{rounds:09d}"


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = read_json(path_inside(folder, "manifest.json"))
        return {"files": dict(manifest["files"]), "pieces": list(map(str, manifest["pieces"]))}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"manifest.json cannot be read: {error}") from error
