"""Parts of an image set: splits that stay the same when images are added, and some of the classes.

A hash of an image's identity (its path in a folder or manifest, its content elsewhere) decides its
split. So it does not depend on the order or number of the other images, and two runs that name the
same split see the same images. In sets that go by content, copies of an image share a split.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import itertools
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitucb.envs.data.decoding import LazyImages
from vitucb.envs.data.image_dataset import ImageDataset, identity_of_part

Split: TypeAlias = Literal["train", "tune", "eval"]

SPLITS: dict[Split, float] = {"train": 0.6, "tune": 0.2, "eval": 0.2}
"""Split -> expected share of the images: to pretrain on, to choose settings on, to report on."""


def split_of(identity: bytes) -> Split:
    """The split of the image with this identity."""
    digest = hashlib.blake2b(identity, digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64
    bounds = itertools.accumulate(SPLITS.values())
    return next(
        (split for split, bound in zip(SPLITS, bounds, strict=True) if position < bound), "eval"
    )


def select_split(dataset: ImageDataset, split: Split) -> ImageDataset:
    """The images of one split.

    Raises:
        ValueError: If the split is unknown, or empty, or lacks a class.
    """
    if split not in SPLITS:
        raise dataset.error(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    chosen = [
        index
        for index in range(len(dataset.images))
        if split_of(dataset.identity_of(index)) == split
    ]
    if not chosen:
        raise dataset.error(f"no image falls into split {split!r}; use more images or no split")
    indices = np.array(chosen)
    if dataset.labels is not None:
        absent = np.setdiff1d(np.arange(dataset.num_classes), dataset.labels[indices])
        if len(absent):
            names = ", ".join(repr(dataset.class_names[label]) for label in absent[:3])
            raise dataset.error(
                f"split {split!r} has no image of class {names}; use more images, or choose "
                "classes that are there"
            )
    labels = None if dataset.labels is None else dataset.labels[indices]
    return _part(dataset, indices, labels, dataset.class_names, f"split {split}")


def select_classes(dataset: ImageDataset, classes: Sequence[str]) -> ImageDataset:
    """The images of some classes; the order given is the label order.

    Raises:
        ValueError: If the set has no such class, or a class is given twice.
    """
    if dataset.labels is None:
        raise dataset.error("its images are rated, not labelled; leave out classes")
    if isinstance(classes, str) or len(set(classes)) != len(classes):
        raise dataset.error(f"classes {classes!r} are no list of different names")
    for name in classes:
        if name not in dataset.class_names:
            near = difflib.get_close_matches(str(name), dataset.class_names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            known = ", ".join(dataset.class_names[:20])
            raise dataset.error(f"unknown class {name!r}; {hint}known: {known}")
    order = [dataset.class_names.index(name) for name in classes]
    new_label = np.full(dataset.num_classes, -1, np.int64)
    new_label[order] = np.arange(len(order))
    labels = new_label[dataset.labels]
    indices = np.flatnonzero(labels >= 0)
    part = f"classes {', '.join(classes)}"
    return _part(dataset, indices, labels[indices], tuple(classes), part)


def _part(
    dataset: ImageDataset,
    indices: NDArray[np.int64],
    labels: NDArray[np.int64] | None,
    class_names: tuple[str, ...],
    part: str,
) -> ImageDataset:
    """The images at `indices`, with these labels."""
    return ImageDataset(
        f"{dataset.name} ({part})",
        _take(dataset.images, indices),
        labels,
        None if dataset.scores is None else dataset.scores[indices],
        class_names,
        functools.partial(identity_of_part, dataset.identity_of, indices),
    )


def _take(
    images: NDArray[np.uint8] | LazyImages, indices: NDArray[np.int64]
) -> NDArray[np.uint8] | LazyImages:
    if isinstance(images, LazyImages):
        return images.select(indices)
    if images.strides[3] == 0:  # gray, one copy in memory for three channels: keep it so
        return np.broadcast_to(images[..., :1][indices], (len(indices), *images.shape[1:]))
    return images[indices]
