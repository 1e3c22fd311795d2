"""A folder that is replaced as a whole, and only where that deletes nothing of somebody else's."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from vitucb.storage.atomic_files import remove, replace_file, temporary_beside


def check_replaceable(folder: Path, own: Collection[str]) -> None:
    """See that `folder` is missing, or holds no files but `own`, paths in it with slashes.

    Raises:
        ValueError: If it is a file, or holds another file; names it.
    """
    if folder.is_file():
        raise ValueError(f"save: {folder} is a file; name a folder")
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if name not in own and (path.is_symlink() or not path.is_dir()):
            raise ValueError(
                f"save: {folder} holds other files, among them {name!r}, which would be deleted; "
                "move them, or name a new folder"
            )


def replace_folder(temporary: Path, folder: Path, *, taken_over: Collection[str] = ()) -> None:
    """Put `temporary` in the place of `folder`, with its files `taken_over` where it has them."""
    for name in taken_over:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, temporary / name)
    old = temporary_beside(folder)
    if folder.is_dir():
        folder.replace(old)
    replace_file(temporary, folder)
    remove(old)
