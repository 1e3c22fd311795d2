"""Copies of images to train on, made once and kept as tokens.

Every image has a few fixed copies, which follow from its content: the part of the network before
its first adapter sees each of them once, and a step costs the adapted blocks alone.

`shift` moves an image by up to 3/32 of its side along each axis and repeats the edge. That is all:
there are no flips, rotations or crops, because a mirrored digit, letter or sign is another one, and
colours stay, because a class may be its colour.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from vitucb.models.activation_cache import ImageCache

Images = Sequence[NDArray[np.uint8]]
# Of a side: 3 pixels of 32.
_LARGEST_SHIFT = 3 / 32
NUM_COPIES = {"none": 1, "shift": 3}
"""Name of an augmentation -> copies of an image, the first of them the image itself."""


def shift(image: Tensor, down: int, right: int) -> Tensor:
    """`image` (C, H, W) moved by `down` and `right` pixels, its edge repeated; may be negative."""
    height, width = image.shape[-2:]
    margins = (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0))
    wide = pad(image, margins, mode="replicate")
    top, left = max(-down, 0), max(-right, 0)
    return wide[..., top : top + height, left : left + width]


def shift_of(image: NDArray[np.uint8], copy: int, size: tuple[int, int]) -> tuple[int, int]:
    """Pixels down and right by which copy number `copy` of an image is moved; copy 0 is not.

    Uniform over all shifts of at most 3/32 of each side of `size`, the input of the network, and
    fixed by the content of the image.
    """
    if copy == 0:
        return 0, 0
    digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8, salt=bytes([copy]))
    number = int.from_bytes(digest.digest(), "little")
    most_down, most_right = (int(_LARGEST_SHIFT * side) for side in size)
    number, down = divmod(number, 2 * most_down + 1)
    return down - most_down, number % (2 * most_right + 1) - most_right


class ImageCopies:
    """Tokens of images and of their copies; the latest used stay.

    Attributes:
        num_copies: Copies of every image, numbered from 0, the image itself.
    """

    def __init__(
        self,
        make: Callable[[Tensor], Tensor],
        preprocess: Callable[[NDArray[np.uint8]], Tensor],
        size: tuple[int, int],
        *,
        augment: str = "shift",
        limit_bytes: int = 256 << 20,
        batch: int = 1,
    ) -> None:
        """Start with nothing held.

        Args:
            make: Tokens (b, ...) of inputs (b, 3, H, W); must depend on each input alone.
            preprocess: One image uint8 (H, W, C) to an input (3, H, W).
            size: H and W of the input, pixels.
            augment: One of `NUM_COPIES`.
            limit_bytes: Bound of what is held, all copies together.
            batch: How many images themselves are made at a time; see `image_cache.steady_batch`.

        Raises:
            ValueError: If the augmentation is unknown.
        """
        if augment not in NUM_COPIES:
            raise ValueError(f"unknown augmentation {augment!r}; known: {', '.join(NUM_COPIES)}")
        self.num_copies = NUM_COPIES[augment]

        def cache(copy: int) -> ImageCache:
            def shifted(image: NDArray[np.uint8]) -> Tensor:
                return shift(preprocess(image), *shift_of(image, copy, size))

            return ImageCache(
                make,
                shifted if copy else preprocess,
                limit_bytes=limit_bytes // self.num_copies,
                batch=1 if copy else batch,
            )

        self._caches = [cache(copy) for copy in range(self.num_copies)]

    @property
    def misses(self) -> int:
        """Images and copies whose tokens had to be made so far."""
        return sum(cache.misses for cache in self._caches)

    def __call__(self, images: Images, copies: NDArray[np.int64] | None = None) -> Tensor:
        """Tokens (b, ...) of images uint8 (H, W, C) each.

        Args:
            images: The images.
            copies: Which copy of each, int64 (b,); None for the images themselves.
        """
        if copies is None:
            return self._caches[0](images)
        order, parts = [], []
        for copy, cache in enumerate(self._caches):
            where = np.flatnonzero(copies == copy)
            if len(where):
                order.append(where)
                parts.append(cache([images[i] for i in where.tolist()]))
        tokens = torch.cat(parts)
        return tokens[torch.as_tensor(np.argsort(np.concatenate(order)), device=tokens.device)]
