"""Image sets in NPZ files: arrays of pixels, or one stream of JPEG files with offsets."""

from __future__ import annotations

import functools
import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitucb.envs.data.decoding import LazyImages, open_image
from vitucb.envs.data.image_dataset import (
    ImageDataset,
    class_indices,
    dataset_error,
    pixels_identity,
)
from vitucb.envs.data.image_source import (
    ImageSource,
    Reading,
    files_fingerprint,
    place_in,
    read_source,
)
from vitucb.storage.npz import read_npz

if TYPE_CHECKING:
    from PIL import Image

_logger = logging.getLogger(__name__)

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


def load_npz(path: Path, score_name: str, reading: Reading) -> ImageDataset:
    """An NPZ file without pickled objects.

    Keys: `images` uint8 (N, H, W[, 3]), or `jpeg` uint8 (bytes,) with `offsets` (N+1,) so that
    image i is `jpeg[offsets[i]:offsets[i+1]]`; `labels` integers (N,) and/or `scores` (N,) or,
    with `score_names` (M,), (N, M); optionally `class_names` (C,) of the labels 0..C-1,
    text or UTF-8, each name once.

    Args:
        path: The file.
        score_name: Which of `score_names` to use; empty for one-dimensional scores.
        reading: How to read the images.

    Raises:
        ValueError: If the file cannot be read or an array is not as above.
    """
    name = str(path)
    arrays = _read_npz(path)
    labels: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()
    if "labels" in arrays:
        labels, names = _classes(name, arrays)
    scores = _scores(name, arrays, score_name)
    if "images" in arrays:
        pixels = arrays["images"]
        images = array_images(name, pixels, reading.image_size)
        identity = functools.partial(pixels_identity, pixels)
        return ImageDataset(name, images, labels, scores, names, identity)
    if "jpeg" not in arrays or "offsets" not in arrays:
        raise dataset_error(
            name, f"has arrays {', '.join(arrays) or 'none'}; store images, or jpeg and offsets"
        )
    source = _jpeg_source(path, arrays["jpeg"], arrays["offsets"])
    for kind, values in (("labels", labels), ("scores", scores)):
        if values is not None and values.shape != (source.count,):
            raise dataset_error(name, f"{kind} have shape {values.shape}; give ({source.count},)")
    return read_source(source, reading, labels, scores, names)


_NPZ_KEYS = ("images", "jpeg", "offsets", "labels", "scores", "score_names", "class_names")


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        return read_npz(path, _NPZ_KEYS)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise dataset_error(
            str(path), f"cannot be read: {reason}; write it again, without object arrays"
        ) from error


def array_images(
    name: str, images: NDArray[Any], image_size: int | None
) -> NDArray[np.uint8] | LazyImages:
    """Gray (N, H, W[, 1]) or RGB (N, H, W, 3) arrays as (N, H, W, 3), resized if asked."""
    is_gray = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 1)
    if images.dtype != np.uint8 or not (is_gray or (images.ndim == 4 and images.shape[3] == 3)):
        raise dataset_error(
            name, f"images are {images.dtype} {images.shape}; store uint8 (N, H, W) or (N, H, W, 3)"
        )
    if is_gray:
        _logger.info("the images of %s are gray: their three channels are equal", name)
        images = images.reshape(images.shape[:3])[..., None]
        images = np.broadcast_to(images, (*images.shape[:3], 3))  # one copy in memory
    if image_size is None or images.shape[1:3] == (image_size, image_size) or images.size == 0:
        return images
    return LazyImages(
        functools.partial(_array_image, images),
        functools.partial(place_in, name),
        len(images),
        image_size,
    )


def _array_image(images: NDArray[np.uint8], index: int) -> Image.Image:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(images[index]))


def _classes(
    name: str, arrays: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Class indices (N,) of the labels, and the names of the classes that have images."""
    known = _names(name, arrays, "class_names")
    labels, names = class_indices(name, arrays["labels"], known)
    if known and labels.size:
        present = np.unique(arrays["labels"])
        if present[0] < 0 or present[-1] >= len(known):
            raise dataset_error(
                name,
                f"labels go from {present[0]} to {present[-1]}, and class_names name 0 to "
                f"{len(known) - 1}; give a name for every label",
            )
        absent = [known[label] for label in np.setdiff1d(np.arange(len(known)), present)]
        if absent:
            shown = ", ".join(absent[:10])
            _logger.warning("dataset %r: no image of %d classes: %s", name, len(absent), shown)
    return labels, names


def _names(name: str, arrays: Mapping[str, NDArray[Any]], key: str) -> list[str]:
    """The texts of an array of names, each there once; none if the file has no such array."""
    values = arrays.get(key)
    if values is None:
        return []
    if values.ndim != 1 or values.dtype.kind not in "USiu":
        raise dataset_error(name, f"{key} are {values.dtype} {values.shape}; store text, (C,)")
    try:
        texts = [v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()]
    except UnicodeDecodeError as error:
        raise dataset_error(name, f"{key} are bytes, but no UTF-8; store them as text") from error
    names = [text.strip() for text in texts]
    for index, text in enumerate(names):
        if not text or text in names[:index]:
            problem = "twice" if text else "empty"
            raise dataset_error(name, f"{key}[{index}] is {text!r}, {problem}; give each name once")
    return names


def _scores(
    name: str, arrays: Mapping[str, NDArray[Any]], score_name: str
) -> NDArray[np.float32] | None:
    if "scores" not in arrays:
        if score_name:
            raise dataset_error(name, f"has no scores to pick {score_name!r} from; drop the #part")
        return None
    scores = arrays["scores"]
    known = _names(name, arrays, "score_names")
    if scores.ndim == 2 and scores.shape[1] == len(known):
        if score_name not in known:
            raise dataset_error(
                name, f"score {score_name!r} is unknown; append '#' and one of: {', '.join(known)}"
            )
        scores = scores[:, known.index(score_name)]
    elif score_name:
        raise dataset_error(name, f"has one score without a name; drop #{score_name}")
    if scores.dtype.kind not in "fiu":
        raise dataset_error(name, f"scores have dtype {scores.dtype}; store them as numbers")
    with np.errstate(over="ignore"):  # too large becomes infinite, which is refused by name
        return scores.astype(np.float32)


def _jpeg_source(path: Path, stream: NDArray[Any], offsets: NDArray[Any]) -> ImageSource:
    """Images of a JPEG byte stream; those without an end marker are suspects."""
    name = str(path)
    _check_offsets(name, stream, offsets)
    starts, ends = offsets[:-1].astype(np.int64), offsets[1:].astype(np.int64)
    # 50,000 headers would take Pillow 2 s; two markers per image cost nothing and catch truncation.
    is_short = ends - starts < 4
    starts_well = ~is_short & _has_marker(stream, np.where(is_short, 0, starts), _JPEG_START)
    ends_well = starts_well & _has_marker(stream, np.where(is_short, 0, ends - 2), _JPEG_END)
    files = _JpegStream(path, stream, starts, ends, starts_well, ends_well)
    return ImageSource(
        name,
        len(starts),
        open=files.open,
        describe=functools.partial(place_in, name),
        identity=files.content,
        check=files.check,
        suspects=np.flatnonzero(~ends_well),
        fingerprint=files.fingerprint,
    )


@dataclass(frozen=True, slots=True)
class _JpegStream:
    """N JPEG files one after the other; where each starts and ends, and whether it does so well."""

    path: Path
    stream: NDArray[np.uint8]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    starts_well: NDArray[np.bool_]
    ends_well: NDArray[np.bool_]

    def content(self, index: int) -> bytes:
        return self.stream[self.starts[index] : self.ends[index]].tobytes()

    def open(self, index: int) -> Image.Image:
        return open_image(io.BytesIO(self.content(index)))

    def check(self, index: int) -> None:
        if not self.starts_well[index]:
            raise ValueError("not a JPEG file")
        if not self.ends_well[index]:  # bytes after the end are legal, a missing end is not
            with self.open(index) as image:
                image.load()

    def fingerprint(self) -> bytes:
        return files_fingerprint([self.path])


def _has_marker(
    stream: NDArray[np.uint8], at: NDArray[np.int64], marker: bytes
) -> NDArray[np.bool_]:
    if len(stream) < 2:
        return np.zeros(len(at), np.bool_)
    found: NDArray[np.bool_] = (stream[at] == marker[0]) & (stream[at + 1] == marker[1])
    return found


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
