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
# Bytes that key, tensor and storage take besides the numbers, measured.
_OBJECTS = 700


class ImageCache:
    """What a frozen function makes of images; the latest used stay.

    Attributes:
        bytes: Held now, with the objects that hold it.
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
        self.bytes, self.misses = 0, 0
        self._make, self._preprocess = make, preprocess
        self._limit, self._batch = limit_bytes, batch
        self._held: OrderedDict[bytes, Tensor] = OrderedDict()

    def __call__(self, images: Images) -> Tensor:
        """What is made (b, ...) of images uint8 (H, W, C) each."""
        keys = [_key(image) for image in images]
        wanted = dict(zip(keys, images, strict=True))
        made = {key: self._held[key] for key in wanted if key in self._held}
        missing = {key: image for key, image in wanted.items() if key not in made}
        self.misses += len(missing)
        made |= zip(missing, self._rows(list(missing.values())), strict=True)
        for key in wanted:
            self._hold(key, made[key])
        return torch.stack([made[key] for key in keys])

    def _rows(self, images: Images) -> Iterator[Tensor]:
        for start in range(0, len(images), self._batch):
            chunk = map(np.ascontiguousarray, images[start : start + self._batch])
            inputs = [self._preprocess(image) for image in chunk]
            filled = inputs + inputs[-1:] * (self._batch - len(inputs))
            for row in self._make(torch.stack(filled))[: len(inputs)]:
                yield row.clone()  # else one row kept would keep the batch

    def _hold(self, key: bytes, row: Tensor) -> None:
        if key not in self._held:
            self._held[key] = row
            self.bytes += row.nbytes + _OBJECTS
        self._held.move_to_end(key)
        while self.bytes > self._limit:
            self.bytes -= self._held.popitem(last=False)[1].nbytes + _OBJECTS


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


def _key(image: NDArray[np.uint8]) -> bytes:
    digest = hashlib.blake2b(f"{image.dtype}{image.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()
