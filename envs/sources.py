"""Readers of the image sets that `load_dataset` knows, one function per kind of source."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitucb.envs.datasets import ImageDataset, dataset_error
from vitucb.envs.decoding import LazyImages, unreadable

if TYPE_CHECKING:
    from PIL import Image

_logger = logging.getLogger(__name__)

TIMM_PREFIXES = ("torch", "hfds")
"""First part of the data set names that are handed to timm."""

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


def load_packaged_digits(image_size: int | None) -> ImageDataset:
    """The 1,797 handwritten digits of scikit-learn, 8x8, gray levels 0..16 spread over 0..255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    gray = np.round(digits.images * (255 / 16)).astype(np.uint8)
    labels, names = class_indices("digits", digits.target)
    images = _array_images("digits", gray, image_size)
    return ImageDataset("digits", images, labels, class_names=names)


def class_indices(
    name: str, labels: NDArray[Any], class_names: Sequence[str] = ()
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Turn integer labels into class indices 0..C-1 in ascending order of the labels.

    Args:
        name: The data set, for the message.
        labels: Integers of any kind, (N,).
        class_names: Names of the labels 0, 1, ... where known; the label itself otherwise.

    Returns:
        Class indices int64 (N,) and the names of the C classes present.

    Raises:
        ValueError: If the labels are not integers.
    """
    if labels.dtype.kind not in "iu":
        raise dataset_error(name, f"labels have dtype {labels.dtype}; store them as integers")
    values, indices = np.unique(labels, return_inverse=True)
    named = len(class_names) > 0 and values[0] >= 0 and values[-1] < len(class_names)
    names = (class_names[value] if named else value for value in values.tolist())
    return indices.reshape(labels.shape).astype(np.int64), tuple(str(value) for value in names)


def _array_images(
    name: str, images: NDArray[Any], image_size: int | None
) -> NDArray[np.uint8] | LazyImages:
    """Gray (N, H, W[, 1]) or RGB (N, H, W, 3) arrays as (N, H, W, 3), resized if asked."""
    is_gray = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 1)
    if images.dtype != np.uint8 or not (is_gray or (images.ndim == 4 and images.shape[3] == 3)):
        raise dataset_error(
            name, f"images are {images.dtype} {images.shape}; store uint8 (N, H, W) or (N, H, W, 3)"
        )
    if is_gray:
        images = images.reshape(images.shape[:3])[..., None]
        images = np.broadcast_to(images, (*images.shape[:3], 3))  # three channels, one copy
    if image_size is None or images.shape[1:3] == (image_size, image_size) or images.size == 0:
        return images
    return LazyImages(
        lambda index: _from_array(images[index]),
        lambda index: f"{index} of {name}",
        len(images),
        image_size,
    )


def _from_array(image: NDArray[np.uint8]) -> Image.Image:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(image))


def load_npz(path: Path, score_name: str, image_size: int | None) -> ImageDataset:
    """An NPZ file without pickled objects.

    Keys: `images` uint8 (N, H, W[, 3]), or `jpeg` uint8 (bytes,) with `offsets` (N+1,) so that
    image i is `jpeg[offsets[i]:offsets[i+1]]`; `labels` integers (N,) and/or `scores` (N,) or,
    with `score_names` (M,), (N, M); optionally `class_names` (C,) of the labels 0..C-1.

    Args:
        path: The file.
        score_name: Which of `score_names` to use; empty for one-dimensional scores.
        image_size: Side in pixels to resize to, or None.

    Raises:
        ValueError: If the file cannot be read or an array is not as above.
    """
    name = str(path)
    arrays = _read_npz(path)
    if "images" in arrays:
        images = _array_images(name, arrays["images"], image_size)
    elif "jpeg" in arrays and "offsets" in arrays:
        images = _jpeg_images(name, arrays["jpeg"], arrays["offsets"], image_size)
    else:
        raise dataset_error(
            name, f"has arrays {', '.join(arrays) or 'none'}; store images, or jpeg and offsets"
        )
    labels: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()
    if "labels" in arrays:
        known_names = tuple(str(value) for value in arrays.get("class_names", ()))
        labels, names = class_indices(name, arrays["labels"], known_names)
    scores = _scores(name, arrays, score_name)
    return ImageDataset(name, images, labels, scores, names)


_NPZ_KEYS = ("images", "jpeg", "offsets", "labels", "scores", "score_names", "class_names")


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files if key in _NPZ_KEYS}
    # A damaged file makes zipfile, zlib and numpy raise many kinds; object arrays raise ValueError.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise dataset_error(
            str(path), f"cannot be read: {reason}; write it again with numpy.savez, without objects"
        ) from error


def _scores(
    name: str, arrays: Mapping[str, NDArray[Any]], score_name: str
) -> NDArray[np.float32] | None:
    if "scores" not in arrays:
        if score_name:
            raise dataset_error(name, f"has no scores to pick {score_name!r} from; drop the #part")
        return None
    scores = arrays["scores"]
    known = [str(value) for value in arrays.get("score_names", ())]
    if scores.ndim == 2 and scores.shape[1] == len(known):
        if score_name not in known:
            raise dataset_error(
                name, f"score {score_name!r} is unknown; append '#' and one of: {', '.join(known)}"
            )
        scores = scores[:, known.index(score_name)]
    if scores.dtype.kind not in "fiu":
        raise dataset_error(name, f"scores have dtype {scores.dtype}; store them as numbers")
    return scores.astype(np.float32)


def _jpeg_images(
    name: str, stream: NDArray[Any], offsets: NDArray[Any], image_size: int | None
) -> LazyImages:
    """Images of a JPEG byte stream, every start marked and every suspicious end decoded now."""
    _check_offsets(name, stream, offsets)
    starts, ends = offsets[:-1].astype(np.int64), offsets[1:].astype(np.int64)
    # 50,000 headers would take Pillow 2 s; two markers per image cost nothing and catch truncation.
    is_short = ends - starts < 4
    broken = np.flatnonzero(
        is_short | ~_has_marker(stream, np.where(is_short, 0, starts), _JPEG_START)
    )
    if len(broken):
        raise unreadable(f"{broken[0]} of {name}", ValueError("not a JPEG file"))
    images = LazyImages(
        lambda index: _open(io.BytesIO(stream[starts[index] : ends[index]].tobytes())),
        lambda index: f"{index} of {name}",
        len(starts),
        image_size,
    )
    for index in np.flatnonzero(~_has_marker(stream, ends - 2, _JPEG_END)).tolist():
        images[index]  # bytes after the end are legal, a missing end is not: decoding tells
    return images


def _has_marker(
    stream: NDArray[np.uint8], at: NDArray[np.int64], marker: bytes
) -> NDArray[np.bool_]:
    if len(stream) < 2:
        return np.zeros(len(at), np.bool_)
    return np.logical_and(stream[at] == marker[0], stream[at + 1] == marker[1])


def _check_offsets(name: str, stream: NDArray[Any], offsets: NDArray[Any]) -> None:
    if stream.dtype != np.uint8 or stream.ndim != 1:
        raise dataset_error(
            name, f"jpeg is {stream.dtype} {stream.shape}; store one uint8 byte stream"
        )
    if offsets.dtype.kind not in "iu" or offsets.ndim != 1 or len(offsets) < 2:
        raise dataset_error(
            name, f"offsets are {offsets.dtype} {offsets.shape}; store integers (N+1,)"
        )
    if offsets[0] < 0 or offsets[-1] > len(stream) or np.any(offsets[1:] < offsets[:-1]):
        raise dataset_error(
            name, f"offsets do not rise from 0 to {len(stream)}, the bytes in jpeg; rebuild them"
        )


def _open(source: io.BytesIO | Path) -> Image.Image:
    from PIL import Image

    return Image.open(source)


def load_folder(path: Path, image_size: int | None) -> ImageDataset:
    """An image folder: every subfolder is a class, in sorted order.

    Images are found at any depth. Hidden entries and files that are not images by their extension are left out.

    Raises:
        ValueError: If there are no images, one class only, or a file's header cannot be read.
    """
    by_class = {
        folder.name: _image_files(folder)
        for folder in sorted(path.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    }
    for empty in [name for name, files in by_class.items() if not files]:
        _logger.warning("%s holds no images and is left out of the classes", path / empty)
        del by_class[empty]
    if not by_class:
        raise dataset_error(
            str(path), "no images in subfolders; put the images of each class in its own subfolder"
        )
    files = [file for group in by_class.values() for file in group]
    for file in files:
        _check_header(file)
    images = LazyImages(
        lambda index: _open(files[index]), lambda index: str(files[index]), len(files), image_size
    )
    labels = np.repeat(np.arange(len(by_class)), [len(group) for group in by_class.values()])
    return ImageDataset(str(path), images, labels.astype(np.int64), class_names=tuple(by_class))


def _image_files(folder: Path) -> list[Path]:
    from PIL import Image

    extensions = Image.registered_extensions()
    return sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if Path(name).suffix.lower() in extensions and not name.startswith(".")
    )


def _check_header(file: Path) -> None:
    try:
        with _open(file):
            pass
    except Exception as error:  # broken files make decoders raise nearly anything
        raise unreadable(str(file), error) from error


def load_timm(name: str, split: str, image_size: int | None) -> ImageDataset:
    """A torchvision (`torch/NAME`) or Hugging Face (`hfds/NAME`) set through timm.

    What is absent is downloaded. Files go to the folder named by the environment variable `VITUCB_DATA`, `~/.cache/vitucb`
    otherwise.

    Raises:
        ValueError: If timm cannot load the set, or its labels are not integers.
    """
    root = Path(os.environ.get("VITUCB_DATA", "~/.cache/vitucb")).expanduser()
    root.mkdir(parents=True, exist_ok=True)
    try:
        from timm.data import create_dataset

        dataset = create_dataset(name, root=str(root), split=split, download=True)
        labels = np.asarray(_timm_labels(dataset))
    except (
        Exception
    ) as error:  # network, missing package, unknown name or split: timm raises them all
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise dataset_error(
            name, f"split {split!r} could not be loaded: {reason}; check name, split and network"
        ) from error
    indices, names = class_indices(name, labels, getattr(dataset, "classes", ()))
    images = LazyImages(
        lambda index: _timm_image(dataset, index),
        lambda index: f"{index} of {name}",
        len(indices),
        image_size,
    )
    return ImageDataset(name, images, indices, class_names=names)


def _timm_labels(dataset: Any) -> Any:
    """All labels, without decoding the images where the set offers that."""
    if hasattr(dataset, "targets"):
        return dataset.targets
    reader = getattr(dataset, "reader", None)
    if reader is not None and hasattr(reader, "label_key"):
        return reader.dataset[reader.label_key]
    return [dataset[index][1] for index in range(len(dataset))]


def _timm_image(dataset: Any, index: int) -> Image.Image:
    # timm's own indexing replaces an unreadable image by the next one, under the wrong label.
    if hasattr(dataset, "reader"):
        return _open(dataset.reader[index][0])
    image: Image.Image = dataset[index][0]
    return image
