"""Offers per distinct image: exact within the bound, an estimate past it."""

from __future__ import annotations

import numpy as np
import pytest

from vitucb.learning.recurrence import Recurrence


def picture(number: int) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    return np.frombuffer(number.to_bytes(12, "big"), np.uint8).reshape(2, 2, 3)


def test_offers_per_image_are_counted() -> None:
    recurrence = Recurrence()
    assert recurrence.offers_per_image == 0
    recurrence.add([picture(0), picture(1), picture(0)])
    recurrence.add([picture(0)])
    assert recurrence.offers_per_image == 2
    assert recurrence.distinct_images == 2


def test_past_the_bound_it_is_an_estimate() -> None:
    recurrence = Recurrence(capacity=500)
    for _ in range(3):
        recurrence.add(picture(number) for number in range(4_000))
    assert recurrence.offers_per_image == pytest.approx(3)
    assert recurrence.distinct_images == pytest.approx(4_000, rel=0.25)


def test_a_restored_count_goes_on() -> None:
    recurrence, other = Recurrence(capacity=100), Recurrence(capacity=100)
    recurrence.add(picture(number) for number in range(1_000))
    other.load_state_dict(recurrence.state_dict())
    for one in (recurrence, other):
        one.add(picture(number) for number in range(2_000))
    assert recurrence.state_dict()["bits"] == other.state_dict()["bits"]
    assert recurrence.offers_per_image == other.offers_per_image
