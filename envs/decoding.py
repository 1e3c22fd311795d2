"""Images decoded when first looked at, and kept decoded while they fit in memory."""

from __future__ import annotations

import functools
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

_logger = logging.getLogger(__name__)

CACHE_MIB = 512
"""Most memory for decoded images of one data set: 50,000 images of 32 px take 147 MiB."""


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB: transparency over white, 16-bit gray scaled to 8 bit."""
    from PIL import Image

    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit values at 255, which turns most of the picture white.
        image = Image.fromarray((np.asarray(image, np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")


class LazyImages:
    """A read-only sequence of N images that decodes on demand and behaves like uint8 (N, H, W, 3).

    The least recently used images are dropped once `CACHE_MIB` is reached. Safe to share between
    threads.

    Args:
        open_image: Opens image i; may raise whatever the decoder raises.
        name: Describes image i in error messages, e.g. its path.
        count: Number of images N.
        image_size: Side H = W in pixels, or None for the size of image 0; others are resized
            (bicubic).

    Raises:
        ValueError: If image 0 cannot be decoded; on access, if image i cannot.
    """

    def __init__(
        self,
        open_image: Callable[[int], Image.Image],
        name: Callable[[int], str],
        count: int,
        image_size: int | None,
    ) -> None:
        self._open_image = open_image
        self._name = name
        self._resize_expected = image_size is not None
        self._size = (image_size, image_size) if image_size else self._decode_image(0).size
        width, height = self._size
        self.shape = (count, height, width, 3)
        self.dtype = np.dtype(np.uint8)
        capacity = max(1, (CACHE_MIB << 20) // (height * width * 3))
        self._cached = functools.lru_cache(maxsize=capacity)(self._decode)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: NDArray[np.int64] | int) -> NDArray[np.uint8]:
        """New uint8 array of the images at `indices`: (H, W, 3) for an int, (n, H, W, 3) for n."""
        if isinstance(indices, np.ndarray):
            return np.stack([self._cached(index) for index in indices.tolist()])
        return self._cached(indices).copy()

    def _decode_image(self, index: int) -> Image.Image:
        try:
            with self._open_image(index) as image:
                image.load()
                return to_rgb(image)
        # Broken files make decoders raise nearly anything: OSError, SyntaxError, struct.error,
        # KeyError...
        except Exception as error:
            raise unreadable(self._name(index), error) from error

    def _decode(self, index: int) -> NDArray[np.uint8]:
        from PIL import Image

        image = self._decode_image(index)
        if image.size != self._size:
            self._log_resize(index, image.size)
            image = image.resize(self._size, Image.Resampling.BICUBIC)
        return np.asarray(image, dtype=np.uint8)

    def _log_resize(self, index: int, size: tuple[int, int]) -> None:
        if not self._resize_expected:
            self._resize_expected = True  # said once, not for every image
            _logger.warning(
                "%s is %dx%d; it and others of another size are resized to %dx%d, the size of the "
                "first image; set image_size to choose",
                *(self._name(index), *size, *self._size),
            )


def first_line(error: Exception) -> str:
    """What went wrong, for a message of one line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def unreadable(name: str, error: Exception) -> ValueError:
    """The error for an image that cannot be decoded."""
    return ValueError(f"cannot read image {name}: {first_line(error)}; mend or remove it")


def open_image(source: io.BytesIO | Path) -> Image.Image:
    """Open an image file without decoding it, importing Pillow only now."""
    from PIL import Image

    return Image.open(source)
