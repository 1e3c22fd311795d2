"""Copies of images: moved a little, never mirrored, and the same ones every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitucb.learning.experts.adapted.augmentation import NUM_COPIES, ImageCopies, shift, shift_of

SIDE = 32


def pictures(count: int) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(count)]


def as_input(image: NDArray[np.uint8]) -> Tensor:
    return torch.as_tensor(image).movedim(-1, 0).float()


def copies(augment: str = "shift", limit_bytes: int = 1 << 24) -> ImageCopies:
    return ImageCopies(
        lambda x: x, as_input, (SIDE, SIDE), augment=augment, limit_bytes=limit_bytes
    )


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (98, 98), (224, 112)])
def test_no_shift_is_larger_than_3_of_32_of_a_side(size: tuple[int, int]) -> None:
    shifts = np.array([shift_of(image, copy, size) for image in pictures(200) for copy in (1, 2)])

    assert (np.abs(shifts) <= 3 / 32 * np.array(size)).all()


def test_all_shifts_occur_and_no_shift_is_one_of_them() -> None:
    shifts = [shift_of(image, copy, (32, 32)) for image in pictures(600) for copy in (1, 2)]

    assert set(shifts) == {(down, right) for down in range(-3, 4) for right in range(-3, 4)}
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.25


def test_copy_0_is_the_image_itself() -> None:
    (image,) = pictures(1)

    assert shift_of(image, 0, (SIDE, SIDE)) == (0, 0)
    assert torch.equal(copies()([image])[0], as_input(image))


def test_a_shift_moves_what_it_keeps_and_repeats_the_edge() -> None:
    image = torch.arange(12.0).view(1, 3, 4)

    moved = shift(image, 1, -2)

    expected = torch.tensor([[[2.0, 3, 3, 3], [2, 3, 3, 3], [6, 7, 7, 7]]])
    assert torch.equal(moved, expected)


def test_copies_are_never_mirrored() -> None:
    row = torch.arange(32.0).expand(1, 32, 32)

    for right in range(-3, 4):
        assert (shift(row, 0, right).diff(dim=-1) >= 0).all()
        assert (shift(row.mT, right, 0).diff(dim=-2) >= 0).all()


def test_copies_of_an_image_follow_from_its_content() -> None:
    images = pictures(5)
    wanted = np.array([2, 0, 1, 2, 1])

    first, again = copies()(images, wanted), copies(limit_bytes=0)(images[::-1], wanted[::-1])

    assert torch.equal(first, again.flip(0))
    for image, copy, made in zip(images, wanted, first, strict=True):
        assert torch.equal(made, shift(as_input(image), *shift_of(image, copy, (SIDE, SIDE))))


def test_a_copy_that_is_held_is_not_made_again() -> None:
    image_copies, images = copies(), pictures(4)
    for _ in range(3):
        image_copies(images, np.array([0, 1, 2, 1]))
    image_copies(images[:1])

    assert image_copies.misses == 4


def test_no_augmentation_leaves_the_image_alone() -> None:
    assert copies("none").num_copies == NUM_COPIES["none"] == 1


def test_an_unknown_augmentation_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown augmentation 'flip'; known: none, shift"):
        copies("flip")
