"""Labelled or rated image sets by name: digits, NPZ files, folders, manifests, timm's sets."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from vitucb.envs.data.disk_cache import data_folder
from vitucb.envs.data.folders import load_folder
from vitucb.envs.data.image_dataset import ImageDataset, dataset_error
from vitucb.envs.data.image_source import Reading
from vitucb.envs.data.manifest import SUFFIXES, load_manifest
from vitucb.envs.data.npz import load_npz
from vitucb.envs.data.selection import Split, select_classes, select_split
from vitucb.envs.data.sources import TIMM_PREFIXES, load_packaged_digits, load_timm
from vitucb.storage.limits import limit

__all__ = ["DATASETS", "ImageDataset", "load_dataset"]

DATASETS = {
    "digits": "1,797 real handwritten digits of 8 px, 10 classes, packaged with scikit-learn",
    "digits#value": "the same, rated by the digit shown, 0 to 9: a stand-in, nobody rated them",
    "FILE.npz": "images (N,H,W[,3]) or jpeg + offsets, with labels or scores; #NAME picks a score",
    "FILE.csv": "a manifest: columns path, and label or score; #NAME picks another score column",
    "FILE.parquet": "a manifest as a Parquet table; needs pyarrow",
    "FOLDER": "an image folder with one subfolder per class",
    "torch/NAME": "a torchvision set through timm, downloaded when absent, e.g. torch/cifar10#test",
    "hfds/NAME": "a Hugging Face set through timm and datasets, e.g. hfds/owner/name#test",
}
"""Name or pattern accepted by `load_dataset` -> one line on what it is."""


def load_dataset(
    name: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    split: Split | None = None,
    classes: Sequence[str] | None = None,
    skip_bad: bool = False,
    disk_cache: bool = False,
    cache_folder: str | os.PathLike[str] | None = None,
) -> ImageDataset:
    """Load an image set by name.

    Args:
        name: One of `DATASETS`: `digits`, a path to an `.npz` file, a manifest or an image folder,
            `torch/NAME` or `hfds/NAME`. A suffix `#PART` picks a split of a timm set, a named
            column of NPZ scores, or the score column of a manifest.
        image_size: Side in pixels to resize every image to (bicubic), or None to keep the set's
            own size.
        split: `train`, `tune` or `eval`: 60, 20 and 20 % of the images, chosen by a hash of their
            path (folders, manifests) or content (others); None for all.
        classes: Names of the classes to keep, in the order their labels shall have; None for all.
        skip_bad: Leave out images that cannot be read, and say so. Decodes every image once.
        disk_cache: Keep decoded images in a file with checksums, so that a set larger than memory
            is decoded once; for folders, manifests, JPEG streams and timm's sets.
        cache_folder: Where that file and downloads go; $VITUCB_DATA if None, or else
            `~/.cache/vitucb`.

    Returns:
        The set; its images are checked here as far as that is possible without decoding all of
        them.

    Raises:
        ValueError: If the name is unknown, a file is missing or unreadable, or the content does
            not fit.

    Example:
        >>> digits = load_dataset("digits", classes=["3", "8"], image_size=32)
        >>> digits.images.shape[1:], digits.class_names
        ((32, 32, 3), ('3', '8'))
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(
            f"dataset {name!r} is no name; give a string, one of: {', '.join(DATASETS)}"
        )
    _check_image_size(image_size)
    folder = data_folder(cache_folder)
    decoded = folder / "decoded" if disk_cache else None
    dataset = _load(os.fspath(name), Reading(image_size, skip_bad, decoded, folder))
    if classes is not None:
        dataset = select_classes(dataset, classes)
    return dataset if split is None else select_split(dataset, split)


def _load(name: str, reading: Reading) -> ImageDataset:
    base, part = _split_part(name)
    if name in ("digits", "digits#value"):
        return load_packaged_digits(reading.image_size, rated=name != "digits")
    if base.partition("/")[0] in TIMM_PREFIXES:
        return load_timm(base, part or "train", reading)
    if not base:  # Path("") would be the folder one happens to be in
        raise ValueError(f"dataset {name!r} names nothing; known: {', '.join(DATASETS)}")
    path = _path(base)
    if _is(Path.is_dir, path) and not part:
        return load_folder(path, reading)
    if _is(Path.is_file, path) and path.suffix.lower() == ".npz":
        return load_npz(path, part, reading)
    if _is(Path.is_file, path) and path.suffix.lower() in SUFFIXES:
        return load_manifest(path, part, reading)
    raise _cannot_load(name, path)


def _check_image_size(size: object) -> None:
    if size is not None and (type(size) is not int or size < 1):
        raise ValueError(f"image_size {size!r} is no size; give an integer >= 1 or leave it out")
    most = limit("image_pixels")
    if isinstance(size, int) and size**2 > most:
        raise ValueError(f"image_size {size} makes more than {most:,} pixels; give a smaller")


def _path(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except (RuntimeError, ValueError, OSError):  # ~ of an unknown or impossible user
        return Path(name)


def _is(test: Callable[[Path], bool], path: Path) -> bool:
    """`test(path)`, False for what cannot be a path: too long, or with a NUL."""
    try:
        return test(path)
    except (OSError, ValueError):
        return False


def _split_part(name: str) -> tuple[str, str]:
    """`base#part` in two, unless a file of the whole name exists."""
    if _is(Path.exists, _path(name)):
        return name, ""
    base, _, part = name.rpartition("#") if "#" in name else (name, "", "")
    return base, part


def _cannot_load(name: str, path: Path) -> ValueError:
    if _is(Path.exists, path):
        return dataset_error(
            name, "neither a folder nor a file .npz, .csv or .parquet; convert it to one of them"
        )
    if path.suffix or len(path.parts) > 1 or name.endswith(("/", os.sep)):
        near = difflib.get_close_matches(path.name, _names_beside(path), n=1)
        hint = f"did you mean {str(path.with_name(near[0]))!r}? " if near else ""
        return dataset_error(name, f"no such file or folder; {hint}check the path")
    near = difflib.get_close_matches(name, list(DATASETS), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ValueError(f"unknown dataset {name!r}; {hint}known: {', '.join(DATASETS)}")


def _names_beside(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        return []
