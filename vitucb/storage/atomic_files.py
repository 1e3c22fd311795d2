"""Files that are whole or absent, also after a crash: write aside, sync, rename.

What is written aside has a name that nobody can guess and is made anew, never opened: a link that
somebody put there before is not followed. Renaming replaces a link at the final place, too.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

_NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
_LEFTOVER = re.compile(r"\..*\.[0-9a-f]{16}\.tmp")


def write_durably(path: Path, text: str) -> None:
    """Replace `path` by a file that holds `text`, in one step."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file to write to, which takes the place of `path` at the end, or vanishes."""
    temporary = temporary_beside(path)
    try:
        with create_file(temporary) as file:
            yield file
        replace_file(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def temporary_beside(path: Path) -> Path:
    """A name beside `path` that nobody can guess."""
    return path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.tmp")


def create_file(path: Path) -> BinaryIO:
    """Open a file to write that must not be there yet, not even as a link."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o666), "wb")


def drop_leftovers(folder: Path, name: str = "", *, older_than_s: float = 0.0) -> None:
    """Delete what was written aside in `folder` (for `name`, if given) and never put in place."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if _LEFTOVER.fullmatch(path.name) and path.name.startswith(f".{name}"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.lstat().st_mtime >= older_than_s:
                    remove(path)


def remove(path: Path) -> None:
    """Delete a file, a link (not what it leads to) or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_own(path: Path) -> None:
    """Refuse to change a file in place that is a link, a pipe or anything but a file.

    Raises:
        ValueError: If it is one; nothing at all is fine.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "no regular file"
        raise ValueError(
            f"{path} is {kind}, and what is written there would go elsewhere; delete it"
        )


def open_own(path: str | os.PathLike[str], flags: int) -> int:
    """Descriptor of a file to change in place, made if missing.

    Raises:
        ValueError: If it is a link, a pipe or anything but a file.
    """
    check_own(Path(path))
    return os.open(path, flags | _NO_FOLLOW, 0o666)


def open_table(path: Path) -> TextIO:
    """Open a file for further lines, each on disk at once, as `open_own` does."""
    file = open(path, "a", newline="", encoding="utf-8", buffering=1, opener=open_own)  # noqa: SIM115  the caller closes it
    assert isinstance(file, io.TextIOWrapper)
    return file


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
