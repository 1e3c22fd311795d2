"""Passes are counted as of a cache that was never lost."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from vitucb.learning.pass_counter import PassCounter
from vitucb.models.activation_cache import ImageCache, content_key

LIMIT = 5_000
ROW_BYTES = 4


def images(numbers: list[int]) -> list[NDArray[np.uint8]]:
    return [np.full((2, 2, 3), number, np.uint8) for number in numbers]


def mean(image: NDArray[np.uint8]) -> Tensor:
    return torch.tensor(image, dtype=torch.float32).mean().view(1, 1, 1)


@given(
    calls=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=20), max_size=12),
    limit=st.sampled_from([0, LIMIT, 1 << 20]),
    stop=st.integers(0, 12),
)
# The one used again is not the one that makes room.
@example(calls=[list(range(13)), [0], [13], [0]], limit=LIMIT, stop=2)
def test_a_count_that_is_taken_up_is_that_of_the_misses_of_one_cache(
    calls: list[list[int]], limit: int, stop: int
) -> None:
    held = ImageCache(lambda x: x.flatten(1), mean, limit_bytes=limit, batch=1)
    counter = PassCounter()
    for number, call in enumerate(calls):
        if number == stop:
            state, counter = counter.state_dict(), PassCounter()
            counter.load_state_dict(state)
        held(images(call))
        counter.add([content_key(image) for image in images(call)], held.capacity(ROW_BYTES))
        assert counter.total == held.misses
