"""From the pixels of any image that is read to 8-bit RGB, upright, over white."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image

# Tags of TIFF 6.0, section 8, and the values asked for.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2

# How Pillow unpacks the samples of a PNG file of few bits -> what it multiplies them by.
_UNPACKED_TIMES = {"L;2": 85, "L;4": 17}


def decoded_rgb(image: Image.Image) -> Image.Image:
    """The loaded image in mode RGB and as its camera was held.

    Raises:
        ValueError: See `to_rgb`.
    """
    turn = _turn(image)  # asked first: conversion may forget the tags
    rgb = to_rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB: transparency over white, gray of 9 to 16 bits scaled to 8 bit.

    Raises:
        ValueError: If its pixels are floats: 0..1 and 0..255 are as common, and one would be black.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise ValueError("its pixels are floats of unknown range; store it with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = _eight_bit_gray(image)
    if image.mode in ("La", "RGBa"):  # colours that were multiplied by their opacity
        image = image.convert(image.mode.upper())
    if "A" in image.getbands() or "transparency" in image.info:
        return _over_white(image.convert("RGBA"))
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    from PIL import Image

    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _eight_bit_gray(image: Image.Image) -> Image.Image:
    """Gray of mode I or I;16: Pillow would clip at 255, which turns most of the picture white."""
    from PIL import Image

    values = np.asarray(image, np.int32)
    tags = _tiff_tags(image)
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    gray = (values >> (bits - 8)).clip(0, 255).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow inverts up to 8 bits, not above
        gray = 255 - gray
    # fromarray forgets the one gray level that a PNG file may declare transparent.
    gray[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray(gray)


def check_samples(image: Image.Image) -> None:
    """Refuse samples whose range is unknown, in an image that was opened and not yet loaded.

    Raises:
        ValueError: If a TIFF file has signed or 32-bit integers: read as unsigned, -1 is white, and
            of 32 bits 0..255 would be black.
    """
    if image.format == "TIFF" and (
        image.mode == "I" or _SIGNED in _tiff_tags(image).get(_SAMPLE_FORMAT, ())
    ):
        raise ValueError(
            "its pixels are signed or 32-bit integers of unknown range; store it with 8 or 16 bits"
        )


def scale_transparency(image: Image.Image) -> None:
    """Bring the transparent colour of a PNG file to 8 bits, as its pixels will be once loaded.

    Pillow keeps the file's own sample, which no pixel equals where a sample has 2, 4 or, in colour,
    16 bits. Of 16 bits the upper eight decide: Pillow drops the others.
    """
    tiles = getattr(image, "tile", ())
    sample = image.info.get("transparency")
    if image.format != "PNG" or not tiles or sample is None:
        return
    unpacked = tiles[0][3]
    if unpacked in _UNPACKED_TIMES:
        image.info["transparency"] = sample * _UNPACKED_TIMES[unpacked]
    elif unpacked == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in sample)


def _tiff_tags(image: Image.Image) -> Mapping[int, Any]:
    """The tags of a TIFF file; none for other images."""
    return getattr(image, "tag_v2", {})


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How to turn the image upright, by the EXIF tag Orientation; None if it is."""
    # Transposition by value of the tag, EXIF 2.32 section 4.6.4 A; 1 is upright.
    transpositions = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
    orientation = image.getexif().get(0x0112)
    if not isinstance(orientation, int) or orientation not in transpositions:
        return None
    from PIL import Image

    return Image.Transpose(transpositions[orientation])
