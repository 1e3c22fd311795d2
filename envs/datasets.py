"""Labelled or rated image sets by name: packaged digits, NPZ files, folders, timm's data sets."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from vitucb.envs.image_dataset import ImageDataset, dataset_error
from vitucb.envs.npz import load_npz
from vitucb.envs.sources import TIMM_PREFIXES, load_folder, load_packaged_digits, load_timm

__all__ = ["DATASETS", "ImageDataset", "load_dataset"]

DATASETS = {
    "digits": "1,797 real handwritten digits of 8 px, 10 classes, packaged with scikit-learn",
    "digits#value": "the same, rated by the digit shown, 0 to 9: a stand-in, nobody rated them",
    "FILE.npz": "images (N,H,W[,3]) or jpeg + offsets, with labels or scores; #NAME picks a score",
    "FOLDER": "an image folder with one subfolder per class",
    "torch/NAME": "a torchvision set through timm, downloaded when absent, e.g. torch/cifar10#test",
    "hfds/NAME": "a Hugging Face set through timm and datasets, e.g. hfds/owner/name#test",
}
"""Name or pattern accepted by `load_dataset` -> one line on what it is."""


def load_dataset(name: str | os.PathLike[str], *, image_size: int | None = None) -> ImageDataset:
    """Load an image set by name.

    Args:
        name: One of `DATASETS`: `digits`, a path to an `.npz` file or an image folder,
            `torch/NAME` or `hfds/NAME`. A suffix `#PART` picks a split of a timm set or a named
            column of NPZ scores.
        image_size: Side in pixels to resize every image to (bicubic), or None to keep the set's
            own size.

    Returns:
        The set; its images are checked here as far as that is possible without decoding all of
        them.

    Raises:
        ValueError: If the name is unknown, a file is missing or unreadable, or the content does
            not fit.
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(
            f"dataset {name!r} is no name; give a string, one of: {', '.join(DATASETS)}"
        )
    if image_size is not None and (type(image_size) is not int or image_size < 1):
        raise ValueError(
            f"image_size {image_size!r} is no size; give an integer >= 1 or leave it out"
        )
    name = os.fspath(name)
    base, part = _split_part(name)
    if name in ("digits", "digits#value"):
        return load_packaged_digits(image_size, rated=name != "digits")
    if base.partition("/")[0] in TIMM_PREFIXES:
        return load_timm(base, part or "train", image_size)
    path = Path(base).expanduser()
    if path.is_dir() and not part:
        return load_folder(path, image_size)
    if path.is_file() and path.suffix == ".npz":
        return load_npz(path, part, image_size)
    raise _cannot_load(name, path)


def _split_part(name: str) -> tuple[str, str]:
    """`base#part` in two, unless a file of the whole name exists."""
    if Path(name).expanduser().exists():
        return name, ""
    base, _, part = name.rpartition("#") if "#" in name else (name, "", "")
    return base, part


def _cannot_load(name: str, path: Path) -> ValueError:
    if path.exists():
        return dataset_error(name, "neither a folder nor an .npz file; convert it to one of them")
    if path.suffix or len(path.parts) > 1:
        near = difflib.get_close_matches(path.name, _names_beside(path), n=1)
        hint = f"did you mean {str(path.with_name(near[0]))!r}? " if near else ""
        return dataset_error(name, f"no such file or folder; {hint}check the path")
    near = difflib.get_close_matches(name, list(DATASETS), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ValueError(f"unknown dataset {name!r}; {hint}known: {', '.join(DATASETS)}")


def _names_beside(path: Path) -> list[str]:
    return [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
