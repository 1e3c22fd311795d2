"""Images decoded when first looked at, and kept decoded while they fit in memory."""

from __future__ import annotations

import functools
import io
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitucb.envs.data.conversion import check_samples, decoded_rgb, scale_transparency
from vitucb.envs.data.disk_cache import DecodedCache
from vitucb.storage.limits import limit

if TYPE_CHECKING:
    from PIL import Image

_logger = logging.getLogger(__name__)

CACHE_MIB = 512
"""Most memory for decoded images of one data set: 50,000 images of 32 px take 147 MiB."""

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM")
"""Formats read, as Pillow names them: no others, since some of Pillow's run external programs."""


class LazyImages:
    """A read-only sequence of N images that decodes on demand and behaves like uint8 (N, H, W, 3).

    Decoded images stay in memory, the least recently used dropped once `CACHE_MIB` is reached, or
    on disk. Safe to share between threads. A copy in another process decodes for itself.

    Args:
        open_image: Opens image i; may raise whatever the decoder raises.
        name: Describes image i in error messages, e.g. its path.
        count: Number of images that can be opened.
        image_size: Side H = W in pixels, or None for the size of the first image; others are
            resized (bicubic).
        indices: Which of the `count` images the sequence has, int64 (N,); all if None.
        disk: Makes the cache of decoded images of a shape (count, H, W, 3) on disk; None for
            memory alone.

    Raises:
        ValueError: If the first image cannot be decoded; on access, if image i cannot.
    """

    def __init__(
        self,
        open_image: Callable[[int], Image.Image],
        name: Callable[[int], str],
        count: int,
        image_size: int | None,
        *,
        indices: NDArray[np.int64] | None = None,
        disk: Callable[[tuple[int, ...]], DecodedCache] | None = None,
    ) -> None:
        self._open_image = open_image
        self._name = name
        self._indices = np.arange(count) if indices is None else indices
        self._resize_expected = image_size is not None
        self._conversion_said = False
        size = (image_size, image_size) if image_size else None
        self._size = size or self._decode_image(int(self._indices[0])).size
        width, height = self._size
        self.shape = (len(self._indices), height, width, 3)
        self.dtype = np.dtype(np.uint8)
        self._disk = disk((count, height, width, 3)) if disk else None
        self._cached = self._with_cache()

    def _with_cache(self) -> Callable[[int], NDArray[np.uint8]]:
        # The operating system keeps what is read from disk in memory, as long as there is some.
        if self._disk is not None:
            return self._read
        capacity = max(1, (CACHE_MIB << 20) // int(np.prod(self.shape[1:])))
        return functools.lru_cache(maxsize=capacity)(self._decode)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_cached"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._cached = self._with_cache()  # of its own: what is decoded stays behind

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: NDArray[np.int64] | int) -> NDArray[np.uint8]:
        """New uint8 array of the images at `indices`: (H, W, 3) for an int, (n, H, W, 3) for n."""
        if isinstance(indices, np.ndarray):
            return np.stack([self._cached(index) for index in self._indices[indices].tolist()])
        return self._cached(int(self._indices[indices])).copy()

    def select(self, indices: NDArray[np.int64]) -> LazyImages:
        """The images at `indices`, sharing what is decoded with this sequence."""
        view = object.__new__(type(self))
        view.__dict__.update(vars(self))
        view._indices = self._indices[indices]
        view.shape = (len(view._indices), *self.shape[1:])
        return view

    def _decode_image(self, index: int) -> Image.Image:
        try:
            with self._open_image(index) as image:
                image.load()
                self._log_conversion(index, image)
                return decoded_rgb(image)
        # Broken files make decoders raise nearly anything: OSError, SyntaxError, struct.error,
        # KeyError...
        except Exception as error:
            raise unreadable(self._name(index), error) from error

    def _read(self, index: int) -> NDArray[np.uint8]:
        assert self._disk is not None, "without a disk cache images are kept by lru_cache"
        found = self._disk.get(index)
        if found is None:
            found = self._decode(index)
            self._disk.put(index, found)
        return found

    def _decode(self, index: int) -> NDArray[np.uint8]:
        from PIL import Image

        image = self._decode_image(index)
        if image.size != self._size:
            self._log_resize(index, image.size)
            image = image.resize(self._size, Image.Resampling.BICUBIC)
        return np.asarray(image, dtype=np.uint8)

    def _log_conversion(self, index: int, image: Image.Image) -> None:
        mode = "RGBA" if "transparency" in image.info else image.mode
        if mode != "RGB" and not self._conversion_said:
            self._conversion_said = True  # said once, not for every image
            _logger.warning(
                "%s is %s; it and others that are not RGB are converted: gray to three equal "
                "channels, 16 bit to 8, transparency to white, CMYK to RGB",
                *(self._name(index), _MODES.get(mode, f"of mode {mode}")),
            )

    def _log_resize(self, index: int, size: tuple[int, int]) -> None:
        if not self._resize_expected:
            self._resize_expected = True  # said once, not for every image
            _logger.warning(
                "%s is %dx%d; it and others of another size are resized to %dx%d, the size of the "
                "first image; set image_size to choose",
                *(self._name(index), *size, *self._size),
            )


_MODES = {
    "1": "black and white",
    "L": "grayscale",
    "LA": "grayscale with transparency",
    "La": "grayscale with transparency",
    "P": "of a palette",
    "RGBA": "transparent",
    "RGBa": "transparent",
    "CMYK": "CMYK",
    "I": "16-bit grayscale",
    "I;16": "16-bit grayscale",
}


def first_line(error: Exception) -> str:
    """What went wrong, for a message of one line."""
    lines = str(error).split("\n") if str(error) else []
    return " ".join(lines[0].split()) if lines else type(error).__name__


def unreadable(name: str, error: Exception) -> ValueError:
    """The error for an image that cannot be decoded."""
    name = " ".join(name.splitlines())  # a path may hold line breaks, an error is one line
    return ValueError(f"cannot read image {name}: {first_line(error)}; mend or remove it")


def read_image(path: str | os.PathLike[str], size: int | None = None) -> NDArray[np.uint8]:
    """One picture as data sets and logs show it to an agent, for a loop of one's own.

    Turned upright (EXIF), transparency over white, gray to three channels, 16 bit to 8.

    Args:
        path: An image file.
        size: Side H = W in pixels to resize to (bicubic); its own size if None.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: If there is no such file, or it cannot be read; names it.
    """
    from PIL import Image

    try:
        if not Path(path).is_file():  # or a pipe that would block for ever
            raise FileNotFoundError("no such file")
        with open_image(Path(path)) as image:
            image.load()
            picture = decoded_rgb(image)
    except Exception as error:  # as in `LazyImages`
        raise unreadable(str(path), error) from error
    if size is not None and picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    return np.array(picture, dtype=np.uint8)


def open_image(source: io.BytesIO | Path) -> Image.Image:
    """Open an image file without decoding it, importing Pillow only now.

    Raises:
        ValueError: If it is of a format that is not read, has more pixels than the limits allow, or
            integers of unknown range. Pillow raises many kinds of errors for files that are broken.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(source, formats=tuple(set(image_extensions().values())))
    except UnidentifiedImageError as error:
        raise _unidentified(source, error) from error
    try:
        _check_pixels(image)
        check_samples(image)
        scale_transparency(image)
    except ValueError:
        image.close()
        raise
    return image


def _check_pixels(image: Image.Image) -> None:
    most = limit("image_pixels")
    if image.width * image.height > most:
        raise ValueError(
            f"its {image.width}x{image.height} pixels exceed the limit of {most:,}; if they are "
            "right, set VITUCB_LIMIT_IMAGE_PIXELS"
        )


_UNREAD = (
    (re.compile(rb"....ftyp(hei|hev|mif1|msf1)", re.DOTALL), "HEIC"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "JPEG XL"),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), "JPEG 2000"),
    (re.compile(rb"II\*\0|MM\0\*"), "a TIFF file with samples of a kind"),
)
"""First bytes of formats that are common but not read -> what to call them."""

UNREAD_EXTENSIONS = (".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jpx")
"""Extensions of pictures in such formats: counted among the images of a folder, and refused."""


def _unidentified(source: io.BytesIO | Path, error: Exception) -> ValueError:
    """The error about a file of a format that is not read."""
    head = source.getvalue()[:16] if isinstance(source, io.BytesIO) else _head(source)
    for pattern, kind in _UNREAD:
        if pattern.match(head):
            return ValueError(
                f"cannot identify image: it is {kind} that is not read; convert it to JPEG or PNG"
            )
    return ValueError(first_line(error))


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(16)


@functools.cache
def image_extensions() -> dict[str, str]:
    """File name extension, lower case with its dot -> format, of the `FORMATS` Pillow reads."""
    from PIL import Image

    known = Image.registered_extensions()
    return {
        extension: name
        for extension, name in known.items()
        if name in FORMATS and name in Image.OPEN
    }


def check_image_file(path: Path) -> None:
    """Open an image file, and decode it where its last bytes do not show that it is whole.

    Raises:
        Exception: Whatever the decoder raises for a file that is broken or cut short.
    """
    if not path.is_file():  # a missing file, or a pipe that would block for ever
        raise FileNotFoundError("no such file")
    with open_image(path) as image:
        ending = _ENDINGS.get(image.format or "")
        if ending is not None and not _ends_with(path, ending):
            image.load()


_ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


def _ends_with(path: Path, ending: bytes) -> bool:
    with path.open("rb") as stream:
        stream.seek(-min(len(ending), path.stat().st_size), io.SEEK_END)
        return stream.read() == ending
