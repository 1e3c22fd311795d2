"""Labelled or rated image sets by name: packaged digits, NPZ files, folders, timm's data sets."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitucb.envs.decoding import LazyImages

DATASETS = {
    "digits": "1,797 real handwritten digits of 8 px, 10 classes, packaged with scikit-learn",
    "FILE.npz": "images (N,H,W[,3]) or jpeg + offsets, with labels or scores; #NAME picks a score",
    "FOLDER": "an image folder with one subfolder per class",
    "torch/NAME": "a torchvision set through timm, downloaded when absent, e.g. torch/cifar10#test",
    "hfds/NAME": "a Hugging Face set through timm and datasets, e.g. hfds/owner/name#test",
}
"""Name or pattern accepted by `load_dataset` -> one line on what it is."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageDataset:
    """Images with a class each, a score each, or both.

    Attributes:
        name: Where the set came from; error messages name it.
        images: uint8 (N, H, W, 3) in memory, or a sequence that decodes on demand. Both take
            integer arrays.
        labels: Class indices 0..C-1, int64 (N,), every class present; None for a purely rated set.
        scores: Rating of every image, float32 (N,), finite; None for a purely labelled set.
        class_names: The C class names in label order; empty without labels.

    Raises:
        ValueError: If shapes, dtypes or values are not as above, or there is one class and no
            scores.
    """

    name: str
    images: NDArray[np.uint8] | LazyImages
    labels: NDArray[np.int64] | None = None
    scores: NDArray[np.float32] | None = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.images)
        if (
            self.images.dtype != np.uint8
            or len(self.images.shape) != 4
            or self.images.shape[3] != 3
        ):
            raise self.error(
                f"images are {self.images.dtype} {self.images.shape}; give uint8 (N, H, W, 3)"
            )
        if count == 0 or 0 in self.images.shape:
            raise self.error(f"images have shape {self.images.shape}; give at least one image")
        if self.labels is None and self.scores is None:
            raise self.error("neither labels nor scores; give at least one of them")
        if self.labels is not None:
            self._check_labels(self.labels)
        if self.scores is not None:
            self._check_scores(self.scores)

    def __deepcopy__(self, memo: dict[int, object]) -> ImageDataset:
        return self  # never written to, and gymnasium deep-copies the arguments of an environment

    @property
    def num_classes(self) -> int:
        """Number of classes C, 0 for a purely rated set."""
        return len(self.class_names)

    def error(self, problem: str) -> ValueError:
        """A ValueError about this set."""
        return dataset_error(self.name, problem)

    def _check_labels(self, labels: NDArray[np.int64]) -> None:
        if labels.shape != (len(self.images),) or labels.dtype != np.int64:
            raise self.error(
                f"labels are {labels.dtype} {labels.shape}; give int64 ({len(self.images)},)"
            )
        present = np.unique(labels)
        if not np.array_equal(present, np.arange(self.num_classes)):
            raise self.error(
                f"labels take {len(present)} values {present.min()}..{present.max()} for "
                f"{self.num_classes} class_names; use 0..C-1, each at least once"
            )
        if self.num_classes < 2 and self.scores is None:
            raise self.error(f"only one class, {self.class_names[0]!r}; give at least two")

    def _check_scores(self, scores: NDArray[np.float32]) -> None:
        if scores.shape != (len(self.images),) or scores.dtype != np.float32:
            raise self.error(
                f"scores are {scores.dtype} {scores.shape}; give float32 ({len(self.images)},)"
            )
        bad = np.flatnonzero(~np.isfinite(scores))
        if len(bad):
            raise self.error(
                f"scores[{bad[0]}] is {scores[bad[0]]} ({len(bad)} not finite in all); "
                "remove or mend these images"
            )


def dataset_error(name: str, problem: str) -> ValueError:
    """The one-line error about data set `name`."""
    return ValueError(f"dataset {name!r}: {problem}")


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
    from vitucb.envs import sources

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
    if name == "digits":
        return sources.load_packaged_digits(image_size)
    if base.partition("/")[0] in sources.TIMM_PREFIXES:
        return sources.load_timm(base, part or "train", image_size)
    path = Path(base).expanduser()
    if path.is_dir() and not part:
        return sources.load_folder(path, image_size)
    if path.is_file() and path.suffix == ".npz":
        return sources.load_npz(path, part, image_size)
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
