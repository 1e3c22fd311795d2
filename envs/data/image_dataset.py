"""The one form every image set takes, whatever it was read from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitucb.envs.data.decoding import LazyImages


@dataclass(frozen=True, slots=True, eq=False)
class ImageDataset:
    """Images with a class each, a score each, or both.

    Attributes:
        name: Where the set came from; error messages name it.
        images: uint8 (N, H, W, 3) in memory, or a sequence that decodes on demand. Both take
            integer arrays.
        labels: Class indices 0..C-1, int64 (N,), every class present; None for a purely rated set.
        scores: Rating of every image, float32 (N,), finite; None for a purely labelled set.
        class_names: The C class names in label order, each once; empty without labels.
        identity: What image i is, whatever its place in the set: its path or its content, which
            splits go by; None for its pixels.

    Raises:
        ValueError: If shapes, dtypes or values are not as above, or there is one class and no
            scores.
    """

    name: str
    images: NDArray[np.uint8] | LazyImages
    labels: NDArray[np.int64] | None = None
    scores: NDArray[np.float32] | None = None
    class_names: tuple[str, ...] = ()
    identity: Callable[[int], bytes] | None = None

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

    def identity_of(self, index: int) -> bytes:
        """What image `index` is: equal for the same image wherever it stands."""
        return self.identity(index) if self.identity else self.images[index].tobytes()

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
        if twice := [name for name, count in Counter(self.class_names).items() if count > 1]:
            raise self.error(
                f"class_names has {twice[0]!r} twice; give each class a name of its own"
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


def pixels_identity(images: NDArray[np.uint8], index: int) -> bytes:
    """The identity of image `index` of an array that goes by content: its bytes."""
    content: bytes = images[index].tobytes()
    return content


def identity_of_part(
    identity: Callable[[int], bytes], indices: NDArray[np.int64], index: int
) -> bytes:
    """The identity of image `index` of a part that has the images at `indices` of a whole."""
    return identity(int(indices[index]))


def dataset_error(name: str, problem: str) -> ValueError:
    """The one-line error about data set `name`."""
    return ValueError(f"dataset {name!r}: {' '.join(problem.splitlines())}")


def class_indices(
    name: str, labels: NDArray[Any], class_names: Sequence[str | tuple[str, ...]] = ()
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Turn integer labels into class indices 0..C-1 in ascending order of the labels.

    Args:
        name: The data set, for the message.
        labels: Integers of any kind, (N,).
        class_names: Names of the labels 0, 1, ... where known; the label itself otherwise. One
            of several words may be a tuple, as torchvision has them.

    Returns:
        Class indices int64 (N,) and the names of the C classes present. Of classes that share a
        name, as the two cranes of ImageNet do, each has its label added: `crane (134)`.

    Raises:
        ValueError: If the labels are not integers.
    """
    if labels.dtype.kind not in "iu":
        raise dataset_error(name, f"labels have dtype {labels.dtype}; store them as integers")
    values, indices = np.unique(labels, return_inverse=True)
    named = len(class_names) > 0 and values[0] >= 0 and values[-1] < len(class_names)
    texts = [_text(class_names[value] if named else value) for value in values.tolist()]
    counts = Counter(texts)
    names = (
        text if counts[text] == 1 else f"{text} ({value})"
        for text, value in zip(texts, values.tolist(), strict=True)
    )
    return indices.reshape(labels.shape).astype(np.int64), tuple(names)


def _text(name: object) -> str:
    return ", ".join(map(str, name)) if isinstance(name, tuple) else str(name)
