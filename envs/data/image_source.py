"""From encoded images to a data set: which can be read, and how they are kept once decoded."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitucb.envs.data.decoding import LazyImages, check_image_file, first_line, open_image
from vitucb.envs.data.disk_cache import DecodedCache
from vitucb.envs.data.image_dataset import ImageDataset, dataset_error, identity_of_part

if TYPE_CHECKING:
    from PIL import Image

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """How images are read, whatever they are read from.

    Attributes:
        image_size: Side in pixels to resize every image to, or None.
        skip_bad: Leave out images that cannot be read, for which every image is decoded once.
        decoded_folder: Where decoded images are kept on disk; None for memory alone.
        download_folder: Where downloaded sets go.
    """

    image_size: int | None = None
    skip_bad: bool = False
    decoded_folder: Path | None = None
    download_folder: Path | None = None


@dataclass(frozen=True, slots=True)
class ImageSource:
    """N encoded images.

    Attributes:
        name: The data set.
        count: Number of images N.
        open: Opens image i; may raise whatever the decoder raises.
        describe: Names image i in messages.
        identity: What image i is, whatever its place in the set: its path or its bytes.
        check: Raises if image i is seen to be broken, more cheaply than by decoding it.
        suspects: Images to check at load, int64.
        fingerprint: Changes whenever an image does.
    """

    name: str
    count: int
    open: Callable[[int], Image.Image]
    describe: Callable[[int], str]
    identity: Callable[[int], bytes]
    check: Callable[[int], None]
    suspects: NDArray[np.int64]
    fingerprint: Callable[[], bytes]


def file_source(name: str, root: Path, paths: Sequence[str]) -> ImageSource:
    """Image files, `paths` relative to `root`; a file's identity is its path as given."""
    files = ImageFiles(root, paths)
    return ImageSource(
        name,
        len(paths),
        open=files.open,
        describe=files.describe,
        identity=files.identity,
        check=files.check,
        suspects=np.arange(len(paths)),
        fingerprint=files.fingerprint,
    )


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Image files below a folder; its methods are of use to other processes too.

    Attributes:
        root: The folder.
        paths: Of the files, relative to it or absolute.
    """

    root: Path
    paths: Sequence[str]

    def open(self, index: int) -> Image.Image:
        """Open file `index` without decoding it; may raise whatever the decoder raises."""
        return open_image(self.root / self.paths[index])

    def describe(self, index: int) -> str:
        """The path of file `index`."""
        return str(self.root / self.paths[index])

    def identity(self, index: int) -> bytes:
        """The path of file `index` as it was given."""
        return self.paths[index].encode("utf-8", "surrogateescape")

    def check(self, index: int) -> None:
        """Raise if file `index` is seen to be broken."""
        check_image_file(self.root / self.paths[index])

    def fingerprint(self) -> bytes:
        """Changes whenever a file does."""
        return files_fingerprint([self.root / path for path in self.paths])


def place_in(name: str, index: int) -> str:
    """Image `index` of a set whose images have no names, for messages."""
    return f"{index} of {name}"


def files_fingerprint(files: Sequence[Path]) -> bytes:
    """Path, size and time of change of every file."""
    rows = []
    for file in files:
        try:
            status = os.stat(file)
            rows.append((str(file), status.st_size, status.st_mtime_ns))
        except (OSError, ValueError):  # missing, or no possible name: left out as unreadable
            rows.append((str(file), 0, 0))
    return repr(rows).encode("utf-8", "surrogateescape")


def read_source(
    source: ImageSource,
    reading: Reading,
    labels: NDArray[np.int64] | None = None,
    scores: NDArray[np.float32] | None = None,
    class_names: tuple[str, ...] = (),
) -> ImageDataset:
    """The data set of a source, its broken images refused or left out.

    Args:
        source: The images.
        reading: How to read them.
        labels: Class indices of the N images.
        scores: Ratings of the N images.
        class_names: Names of the classes.

    Raises:
        ValueError: If images cannot be read and `skip_bad` is not set, or none can.
    """
    kept = _readable(source, reading.skip_bad)
    images = LazyImages(
        source.open,
        source.describe,
        source.count,
        reading.image_size,
        indices=kept,
        disk=_disk_cache(source, reading.decoded_folder),
    )
    if labels is not None:
        labels, class_names = _without_empty_classes(source.name, labels[kept], class_names)
    return ImageDataset(
        source.name,
        images,
        labels,
        None if scores is None else scores[kept],
        class_names,
        functools.partial(identity_of_part, source.identity, kept),
    )


def _disk_cache(
    source: ImageSource, folder: Path | None
) -> Callable[[tuple[int, ...]], DecodedCache] | None:
    if folder is None:
        return None
    import PIL

    # Another decoder, or another rule in decoding.py (count it up), may give other pixels.
    version = f"rule 3, Pillow {PIL.__version__}".encode()
    return functools.partial(DecodedCache, folder, source.name, source.fingerprint() + version)


def _readable(source: ImageSource, skip_bad: bool) -> NDArray[np.int64]:
    """Indices of the images that can be read, as far as that is looked into."""
    looked_at = np.arange(source.count) if skip_bad else source.suspects
    look = functools.partial(_decode, source) if skip_bad else source.check
    bad, first = [], ""
    for index in looked_at.tolist():
        try:
            look(index)
        except Exception as error:  # broken files make decoders raise nearly anything
            first = first or f"{source.describe(index)}: {first_line(error)}"
            bad.append(index)
    if not bad:
        return np.arange(source.count)
    problem = f"{len(bad)} of {source.count} images cannot be read; the first: {first}"
    if not skip_bad:
        raise dataset_error(source.name, f"{problem}; mend or remove them, or set skip_bad")
    if len(bad) == source.count:
        raise dataset_error(source.name, f"{problem}; nothing is left")
    _logger.warning("dataset %r: %s; they are left out", source.name, problem)
    return np.setdiff1d(np.arange(source.count), bad)


def _decode(source: ImageSource, index: int) -> None:
    source.check(index)
    with source.open(index) as image:
        image.load()


def _without_empty_classes(
    name: str, labels: NDArray[np.int64], class_names: tuple[str, ...]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Classes that lost all their images leave the set."""
    present, indices = np.unique(labels, return_inverse=True)
    if len(present) < len(class_names):
        gone = sorted(set(class_names) - {class_names[label] for label in present})
        _logger.warning("dataset %r: no image left of class %s", name, ", ".join(gone))
    return indices.astype(np.int64), tuple(class_names[label] for label in present)
