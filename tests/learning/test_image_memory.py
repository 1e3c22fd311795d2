"""The memory of offered images keeps the latest distinct ones."""

from __future__ import annotations

import numpy as np

from vitucb.learning.image_memory import ImageMemory, image_key


def rows(*values: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.array(values)[:, None] * np.ones(3)


def test_the_image_not_seen_for_longest_goes_first() -> None:
    memory = ImageMemory(2)
    memory.add([b"a" * 16, b"b" * 16], rows(1, 2))
    memory.add([b"a" * 16], rows(1))
    memory.add([b"c" * 16], rows(3))
    np.testing.assert_array_equal(memory.features, rows(1, 3))


def test_an_image_is_held_once() -> None:
    memory = ImageMemory(5)
    memory.add([b"a" * 16, b"a" * 16], rows(1, 1))
    assert len(memory) == 1


def test_a_restored_memory_is_the_same() -> None:
    memory, other = ImageMemory(3), ImageMemory(3)
    memory.add([b"a" * 16, b"b" * 16], rows(1, 2))
    memory.add([b"a" * 16], rows(1))
    other.load_state_dict(memory.state_dict())
    for one in (memory, other):
        one.add([b"c" * 16, b"d" * 16], rows(3, 4))
    np.testing.assert_array_equal(memory.features, other.features)


def test_images_are_told_apart_by_pixels_and_shape() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert image_key(image) == image_key(image.copy())
    assert image_key(image) != image_key(image.reshape(4, 2, 3))
    assert image_key(image) != image_key(image + 1)
