"""What the frozen part of a model makes of images, kept by the content of the image.

It depends on the image alone, and images come again and again. What is given is the same to the
bit, whatever is held: the bits of a matrix product may depend on how many rows it has, so what is
missing is always made in batches of one size, filled up where too few are missing. A run that
starts again with nothing held plays the same rounds.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Images = Sequence[NDArray[np.uint8]]
_LARGEST_BATCH = 16
_SLAB_BYTES = 1 << 22
# Bytes that key and place of a row take, and its place in a count of passes, measured.
_OBJECTS = 360


class ImageCache:
    """What a frozen function makes of images; the latest used stay.

    Attributes:
        misses: Images for which it had to be made so far.
    """

    def __init__(
        self,
        make: Callable[[Tensor], Tensor],
        preprocess: Callable[[NDArray[np.uint8]], Tensor],
        *,
        limit_bytes: int,
        batch: int,
    ) -> None:
        """Start with nothing held.

        Args:
            make: What is made (b, ...) of inputs (b, 3, H, W); must depend on each input alone.
            preprocess: One image uint8 (H, W, C) to an input (3, H, W).
            limit_bytes: Bound of what is held; 0 holds nothing.
            batch: How many images are made at a time, always; see `steady_batch`.
        """
        self.misses = 0
        self._make, self._preprocess = make, preprocess
        self._limit, self._batch = limit_bytes, batch
        # Image -> number of its row. Rows lie in slabs: as tensors of their own, made between the
        # large ones of a forward, they would tear the heap to pieces, at 40 KB for a row of 768.
        self._rows: OrderedDict[bytes, int] = OrderedDict()
        self._slabs: list[Tensor] = []

    def __call__(self, images: Images, keys: Sequence[bytes] | None = None) -> Tensor:
        """What is made (b, ...) of images.

        Args:
            images: uint8 (H, W, C) each.
            keys: Their `content_key`, if the caller has them already.
        """
        # What is held must serve a later training, whatever mode the caller is in.
        with torch.inference_mode(False), torch.no_grad():
            return self._look_up(images, keys or [content_key(image) for image in images])

    def capacity(self, row_bytes: int) -> int:
        """How many rows of so many bytes are held at most."""
        return self._limit // (row_bytes + _OBJECTS)

    def _look_up(self, images: Images, keys: Sequence[bytes]) -> Tensor:
        wanted = dict(zip(keys, images, strict=True))
        missing = {key: image for key, image in wanted.items() if key not in self._rows}
        self.misses += len(missing)
        made = dict(zip(missing, self._made(list(missing.values())), strict=True))
        held = {key: self._row(self._rows[key]) for key in wanted if key not in missing}
        whole = torch.stack([made[key] if key in made else held[key] for key in keys])
        for key in wanted:
            if key in held:
                self._rows.move_to_end(key)
        for key, row in made.items():
            self._hold(key, row)
        return whole

    @property
    def num_bytes(self) -> int:
        """Held now, with the objects that hold it."""
        return len(self._rows) * (self._slabs[0][0].nbytes + _OBJECTS) if self._rows else 0

    def _made(self, images: Images) -> Iterator[Tensor]:
        for start in range(0, len(images), self._batch):
            chunk = map(np.ascontiguousarray, images[start : start + self._batch])
            inputs = [self._preprocess(image) for image in chunk]
            filled = inputs + inputs[-1:] * (self._batch - len(inputs))
            yield from self._make(torch.stack(filled))[: len(inputs)]

    def _hold(self, key: bytes, row: Tensor) -> None:
        capacity = self.capacity(row.nbytes)
        if capacity == 0:
            return
        number = len(self._rows)
        if number == capacity:
            number = self._rows.popitem(last=False)[1]
        size = max(1, _SLAB_BYTES // row.nbytes)
        if number == len(self._slabs) * size:
            self._slabs.append(row.new_empty(min(size, capacity - number), *row.shape))
        self._row(number).copy_(row)
        self._rows[key] = number

    def _row(self, number: int) -> Tensor:
        size = len(self._slabs[0])
        return self._slabs[number // size][number % size]


def steady_batch(make: Callable[[Tensor], Tensor], inputs: Tensor, arms: int) -> int:
    """How many images to make at a time, so that no bit depends on which others are made with them.

    Args:
        make: What is made (b, ...) of inputs (b, 3, H, W).
        inputs: Some to try it on, (b, 3, H, W), b at least 16.
        arms: How many images a round brings at most.

    Returns:
        As many as makes few batches of a round, none of them mostly filling; 1 where bits depend on
        the place in a batch.
    """
    batch = -(-arms // -(-arms // _LARGEST_BATCH))
    inputs = inputs[:batch]
    made, turned = make(inputs), make(inputs.roll(1, 0))
    return batch if torch.equal(made.roll(1, 0), turned) else 1


def noise_images(model: nn.Module, size: tuple[int, int]) -> Tensor:
    """Inputs of `model` to try `steady_batch` on, of height and width `size`, pixels."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(_LARGEST_BATCH, 3, *size, generator=generator)
    return noise.to(next(model.parameters()))


def check_limit(limit_mib: int) -> None:
    """Refuse a bound of memory below 0.

    Raises:
        ValueError: If it is.
    """
    if limit_mib < 0:
        raise ValueError(f"agent.prefix_cache_mib {limit_mib} must be at least 0")


def content_key(image: NDArray[np.uint8]) -> bytes:
    """16 bytes that tell an image from any other: a hash of its type, shape and pixels."""
    digest = hashlib.blake2b(f"{image.dtype}{image.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()
