"""How the covariance of a round grows with arms, rounds, features, rank and threads.

One row per point; everything but the named quantity stays at K = 10, t = 600, p = 49,152, the
default rank and one thread. Time to score K arms and add one, CPU time, minimum over interleaved
repeats; with two threads the time on the clock would be less.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vitucb.cli.bench.scoring import ARMS, Row, fill_covariance, one_thread
from vitucb.covariance import FeatureCovariance, make_covariance

FEATURES, ROUNDS, REPEATS = 49_152, 600, 7
POINTS: dict[str, list[int]] = {
    "arms": [10, 100, 1_000],
    "rounds": [100, 1_000, 10_000, 100_000],
    "features": [10_000, 100_000, 1_000_000],
    "rank": [64, 128, 256, 512],
    "threads": [1, 2],
}
"""Quantity -> its values."""


def make_arms(arms: int, features: int) -> Tensor:
    """Random features (K, p) of length about 1."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(arms, features, generator=generator).div_(features**0.5)


def one_round(covariance: FeatureCovariance, arms: Tensor) -> Callable[[], None]:
    """Score all arms and add the first."""

    def play() -> None:
        covariance.width(arms)
        covariance.update(index=0)

    return play


def least_seconds(call: Callable[[], None], repeats: int) -> float:
    """Shortest time on the clock, seconds: CPU time would add up the threads."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def point(quantity: str, value: int, repeats: int = REPEATS) -> Row:
    """One row: `quantity` at `value`, everything else at its usual value."""
    usual: dict[str, Any] = {
        "arms": ARMS,
        "rounds": ROUNDS,
        "features": FEATURES,
        "rank": None,
        "threads": 1,
    }
    at = usual | {quantity: value}
    covariance = make_covariance("low-rank", at["features"], rank=at["rank"])
    fill_covariance(covariance, at["rounds"])
    torch.set_num_threads(at["threads"])
    try:
        play = one_round(covariance, make_arms(at["arms"], at["features"]))
        ms = 1e3 * least_seconds(play, repeats)
    finally:
        torch.set_num_threads(1)
    return {
        "quantity": quantity,
        "value": value,
        "score and update, ms": ms,
        "MiB": covariance.memory_bytes / 2**20,
    }


def run_suite() -> list[Row]:
    """The table of `vitucb bench --suite scale`; about three minutes."""
    with one_thread():
        rows = []
        for quantity, values in POINTS.items():
            points = [point(quantity, value) for value in values]
            first = float(points[0]["score and update, ms"])
            rows += [
                row | {"x first": float(row["score and update, ms"]) / first} for row in points
            ]
        return rows
