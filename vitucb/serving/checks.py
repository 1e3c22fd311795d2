"""What is refused at the border of a deployed agent: ranges, images, rewards that are none."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any, SupportsIndex, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitucb.storage.limits import check_observation
from vitucb.types import LARGEST_REWARD


def checked_range(given: tuple[float, float] | None) -> tuple[float, float]:
    """Least and largest reward that is learnt; any up to 1e30 in size if None.

    Raises:
        ValueError: If they are no range.
    """
    low, high = given or (-LARGEST_REWARD, LARGEST_REWARD)
    if not -LARGEST_REWARD <= low < high <= LARGEST_REWARD:
        raise ValueError(
            f"reward_range {given} must be (low, high) with low < high, at most "
            f"{LARGEST_REWARD:g} in size"
        )
    return float(low), float(high)


def whole_number(name: str, value: object) -> int:
    """A count called `name` as an integer.

    Raises:
        TypeError: If it is none.
    """
    try:
        return operator.index(cast(SupportsIndex, value))
    except TypeError:
        raise TypeError(f"{name} {value!r} is no whole number; give an integer") from None


def pixels_of(images: ArrayLike) -> NDArray[Any]:
    """Images as one array.

    Raises:
        ValueError: If they differ in shape.
    """
    try:
        return np.asarray(images)
    except ValueError:  # of NumPy, in words of its own
        shapes = sorted({np.shape(image) for image in cast(Sequence[ArrayLike], images)})
        raise ValueError(
            f"images differ in shape: {', '.join(map(str, shapes[:3]))}; resize them to one"
        ) from None


def check_images(pixels: NDArray[Any], shares_image: bool) -> None:
    """Refuse what is no picture for every arm, or the one of all arms.

    Raises:
        TypeError: If the values are not uint8.
        ValueError: If the shape does not fit.
    """
    if pixels.dtype != np.uint8:
        raise TypeError(f"images are {pixels.dtype}; give uint8 values from 0 to 255")
    if pixels.ndim != 4 or not pixels.size or (shares_image and len(pixels) != 1):
        wanted = "(H, W, C), the context of all arms" if shares_image else "(K, H, W, C)"
        raise ValueError(f"images have shape {pixels.shape}; give {wanted}")
    check_observation(len(pixels), pixels.nbytes // len(pixels), "images")


def number(reward: object) -> float:
    """A reward as a float.

    Raises:
        TypeError: If it is no number.
    """
    if not isinstance(reward, Real | np.bool_):  # numpy's truth values are no numbers
        raise TypeError(f"reward {reward!r} is no number; give a float")
    try:
        return float(reward)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf if cast(int, reward) > 0 else -math.inf
