"""Files that are whole or absent, also after a crash: write aside, sync, rename."""

from __future__ import annotations

import os
from pathlib import Path


def write_durably(path: Path, text: str) -> None:
    """Replace `path` by a file that holds `text`, in one step."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    replace_file(temporary, path)


def replace_file(temporary: Path, final: Path) -> None:
    """Put the finished file or folder `temporary` in the place of `final`."""
    sync(temporary)
    temporary.replace(final)
    sync(final.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folder, and needs no sync of its names
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
