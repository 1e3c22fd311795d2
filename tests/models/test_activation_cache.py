"""What is kept of images is what was made of them, in as many bytes as allowed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from vitucb.models import activation_cache as image_cache
from vitucb.models.activation_cache import ImageCache, steady_batch

ROW = 3 * 4


def cache(rows: int, batch: int = 4) -> ImageCache:
    """Keeps `rows` rows of 3 numbers."""
    limit = rows * (ROW + image_cache._OBJECTS)
    return ImageCache(colour, mean, limit_bytes=limit, batch=batch)


def mean(image: NDArray[np.uint8]) -> Tensor:
    return torch.tensor(image, dtype=torch.float32).mean((0, 1)).view(3, 1, 1)


def colour(inputs: Tensor) -> Tensor:
    return inputs.flatten(1)


def images(numbers: list[int]) -> list[NDArray[np.uint8]]:
    return [np.full((2, 2, 3), number, np.uint8) for number in numbers]


@given(
    calls=st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=9), max_size=12),
    rows=st.integers(0, 12),
    slab=st.integers(1, 5),
)
def test_every_image_gets_its_own_row_whatever_is_held_and_where(
    calls: list[list[int]], rows: int, slab: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_cache, "_SLAB_BYTES", slab * ROW)
        held = cache(rows)
        for numbers in calls:
            wanted = torch.tensor(numbers, dtype=torch.float32)[:, None].expand(-1, 3)
            assert torch.equal(held(images(numbers)), wanted)
            assert held.num_bytes <= rows * (ROW + image_cache._OBJECTS)
            assert sum(len(part) for part in held._slabs) < rows + slab


def test_the_latest_used_stay() -> None:
    held = cache(3)
    for numbers in ([0, 1, 2], [0], [3], [0, 2, 3]):
        held(images(numbers))
    assert held.misses == 4
    held(images([1]))
    assert held.misses == 5


def test_what_is_kept_under_inference_mode_serves_a_training() -> None:
    held = cache(3)
    with torch.inference_mode():
        held(images([0, 1]))
    assert not held(images([0, 1, 2])).is_inference()


def test_many_rows_lie_in_few_tensors() -> None:
    held = cache(1000)
    held(images(list(range(200))))
    assert len(held._slabs) == 1


def test_images_are_made_one_by_one_where_their_place_in_a_batch_matters() -> None:
    inputs = torch.randn(16, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    assert steady_batch(colour, inputs, 10) == 10
    place = torch.arange(16.0)[:, None]
    assert steady_batch(lambda x: colour(x) + place[: len(x)], inputs, 10) == 1
