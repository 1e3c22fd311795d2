"""Batches of a replay: uniform over the history, or fading with age where rewards drift."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vitucb.learning.replay import Replay


def draw_slots(
    replay: Replay, size: int, discount: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Slots of `size` items, drawn with replacement.

    With replacement, because a permutation of a long history for 16 items of it costs more than an
    item that comes twice.

    Args:
        replay: What is drawn from; not empty, and of the kind `window` where the discount is not 1.
        size: Number of items.
        discount: Weight of an item that is one reward older, in (0, 1].
        rng: Draws.
    """
    if discount == 1:
        return rng.integers(len(replay), size=size)
    ages = discounted_ages(rng.random(size), len(replay), discount)
    slots: NDArray[np.int64] = (replay.seen - 1 - ages) % replay.capacity
    return slots


def discounted_ages(uniform: NDArray[np.float64], held: int, discount: float) -> NDArray[np.int64]:
    """Ages 0..held-1 with probability in proportion to discount^age, from uniform draws in [0, 1).

    By the inverse of the distribution function (1 - discount^(age + 1)) / (1 - discount^held).
    """
    whole = -math.expm1(held * math.log(discount))
    ages = np.floor(np.log1p(-uniform * whole) / math.log(discount))
    return np.clip(ages, 0, held - 1).astype(np.int64)
