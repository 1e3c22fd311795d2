"""Image folders: every subfolder is a class."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from vitucb.envs.data.decoding import UNREAD_EXTENSIONS, image_extensions
from vitucb.envs.data.image_dataset import ImageDataset, dataset_error
from vitucb.envs.data.image_source import Reading, file_source, read_source
from vitucb.envs.data.log_rows import natural_order

_logger = logging.getLogger(__name__)


def load_folder(path: Path, reading: Reading) -> ImageDataset:
    """An image folder: every subfolder is a class, numbers in their order, then names in theirs.

    Images are found at any depth, through links too. Hidden files and folders are left out without
    a word, other files without an image's extension with a warning.

    Raises:
        ValueError: If there are no images, one class only, or a folder or file cannot be read.
    """
    try:
        visible = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
        entries = sorted(visible, key=lambda entry: natural_order(entry.name))
        by_class = {entry.name: _files(path, entry) for entry in entries if entry.is_dir()}
    except OSError as error:
        where = "" if error.filename in (None, str(path)) else f"{error.filename}: "
        raise dataset_error(str(path), f"{where}{error.strerror}; check its permissions") from error
    others = [entry for entry in entries if _is_image(entry) and not entry.is_dir()]
    others += [file for files in by_class.values() for file in files if not _is_image(file)]
    _say_what_is_left_out(path, others)
    by_class = {name: [*filter(_is_image, files)] for name, files in by_class.items()}
    for empty in [name for name, files in by_class.items() if not files]:
        _logger.warning("%s holds no images and is left out of the classes", path / empty)
        del by_class[empty]
    if not by_class:
        raise dataset_error(
            str(path), "no images in subfolders; put the images of each class in its own subfolder"
        )
    paths = [file.relative_to(path).as_posix() for group in by_class.values() for file in group]
    labels = np.repeat(np.arange(len(by_class)), [len(group) for group in by_class.values()])
    source = file_source(str(path), path, paths)
    return read_source(source, reading, labels.astype(np.int64), None, tuple(by_class))


def _is_image(file: Path) -> bool:
    """Whether its extension says so: also of pictures that are not read, which loading refuses."""
    extension = file.suffix.lower()
    return extension in image_extensions() or extension in UNREAD_EXTENSIONS


def _files(root: Path, folder: Path) -> list[Path]:
    """The files below `folder` that are not hidden, sorted.

    A linked folder is entered like any other, each only once: a link back to where one is, or to a
    folder around it, would lead through the images for ever, or into other classes.
    """
    real_folder, real_root = folder.resolve(), root.resolve()
    around = (real_folder, *real_folder.parents, real_root, *real_root.parents)
    entered = set(map(str, around))
    return sorted(_walk(folder, entered))


def _walk(folder: Path, entered: set[str]) -> Iterator[Path]:
    for parent, subfolders, names in os.walk(folder, onerror=_fail, followlinks=True):
        yield from (Path(parent, name) for name in names if not name.startswith("."))
        new = []
        for name in sorted(name for name in subfolders if not name.startswith(".")):
            real = os.path.realpath(Path(parent, name))
            if real in entered:
                _logger.warning(
                    "%s leads to %s, which is read already; its images count once",
                    *(Path(parent, name), real),
                )
            else:
                entered.add(real)
                new.append(name)
        subfolders[:] = new  # os.walk goes on with what is left here


def _fail(error: OSError) -> NoReturn:
    raise error


def _say_what_is_left_out(path: Path, files: list[Path]) -> None:
    if not files:
        return
    counts = Counter(file.suffix.lower() or "no extension" for file in files)
    kinds = ", ".join(f"{extension} {count}" for extension, count in counts.most_common(5))
    _logger.warning(
        "dataset %r: %d files are left out: not in a class's folder, or without an image's "
        "extension (%s); the first: %s",
        *(str(path), len(files), kinds, files[0]),
    )
