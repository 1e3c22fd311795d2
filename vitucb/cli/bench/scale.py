"""How the covariance of a round grows with arms, rounds, features, rank and threads.

One row per point; everything but the named quantity stays at K = 10, t = 600, p = 49,152, the
default rank and one thread. Time to score K arms and add one, the minimum over repeats; on the
clock, since CPU time would add up the threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vitucb.cli.bench.clock import is_cpu, synchronize
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


def least_seconds(call: Callable[[], None], repeats: int, device: str = "cpu") -> float:
    """Shortest time on the clock until `device` is done, seconds."""
    call()
    times = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


def point(quantity: str, value: int, repeats: int = REPEATS, device: str = "cpu") -> Row:
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
    fill_covariance(covariance, at["rounds"], device)
    torch.set_num_threads(at["threads"])
    try:
        play = one_round(covariance, make_arms(at["arms"], at["features"]).to(device))
        ms = 1e3 * least_seconds(play, repeats, device)
    finally:
        torch.set_num_threads(1)
    return {
        "quantity": quantity,
        "value": value,
        "score and update, ms": ms,
        "MiB": covariance.memory_bytes / 2**20,
    }


def run_suite(device: str = "cpu") -> list[Row]:
    """The table of `vitucb bench --suite scale`; about three minutes.

    Threads are the processor's.
    """
    with one_thread():
        rows = []
        for quantity, values in POINTS.items():
            if quantity == "threads" and not is_cpu(device):
                continue
            points = [point(quantity, value, device=device) for value in values]
            first = float(points[0]["score and update, ms"])
            rows += [
                row | {"x first": float(row["score and update, ms"]) / first} for row in points
            ]
        return rows
