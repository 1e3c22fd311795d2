"""Several processes on one device, as a sweep has them, for `on_a_gpu.py`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError

from gpu_players import CONTESTANTS, Device
from time_budget import LEFT_OUT, Budget, Row, in_turn, out_of_time

from vitucb.cli.bench.clock import synchronize
from vitucb.models.threads import use_threads

WHO = "vit-ucb, labels"


def process_rows(
    device: Device, counts: Sequence[int], arms: int, longest_s: float, budget: Budget
) -> Iterator[Row]:
    """Rounds a second of 1, 2, .. processes, each with an agent of its own, over `longest_s`."""
    one = 0.0
    for count, part in in_turn(counts, budget):
        case: Row = {"processes": count}
        if part is None:
            yield case | out_of_time(budget)
            continue
        before = part.left()
        seconds = min(longest_s, before / 4)
        rates = play_together(device, count, arms, seconds, part)
        if rates is None:
            yield case | {LEFT_OUT: f"not done after {before:.0f} s"}
            continue
        rate = sum(rates)
        one = rate if count == 1 else one
        case |= {"rounds/s": rate, "start, s": before - part.left() - seconds}
        yield case | ({"x one": rate / one, "of ideal": rate / (one * count)} if one else {})


def play_together(
    device: Device, count: int, arms: int, seconds: float, budget: Budget
) -> list[float] | None:
    """Rounds a second of each process over `seconds` that begin together.

    Returns:
        None if the budget ends before all are done; the processes are ended then.

    Raises:
        RuntimeError: If a process fails; what failed is on stderr.
    """
    context = get_context("spawn")
    # CUDA cannot be forked into, and nobody waits for one that could not be made.
    barrier = context.Barrier(count, timeout=budget.left())
    ours, processes = list[Connection](), list[SpawnProcess]()
    for _ in range(count):
        mine, other = context.Pipe(duplex=False)
        process = context.Process(
            target=_play, args=(other, barrier, device.name, device.prepare, arms, seconds)
        )
        process.start()
        other.close()
        ours.append(mine)
        processes.append(process)
    try:
        return _collected(ours, budget)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _collected(ours: list[Connection], budget: Budget) -> list[float] | None:
    rates: list[float] = []
    waiting = list(ours)
    while waiting:
        ready = wait(waiting, timeout=budget.left())
        if not ready:
            return None
        for connection in ready:
            assert isinstance(connection, Connection)
            waiting.remove(connection)
            try:
                rates.append(connection.recv())
            except EOFError as error:
                raise RuntimeError("a process on the device failed; see above") from error
    return rates


def _play(
    results: Connection,
    barrier: Barrier,
    device: str,
    prepare: object,
    arms: int,
    seconds: float,
) -> None:
    """Play in a process of its own, and send its rounds a second."""
    if callable(prepare):
        prepare()
    use_threads(1)
    player = CONTESTANTS[WHO].make(arms, {"backbone": "vitucb-nano"}, device)
    player.round()
    synchronize(device)
    with contextlib.suppress(BrokenBarrierError):  # the parent has given up, and says so
        barrier.wait()
        start = time.perf_counter()
        rounds = 0
        while time.perf_counter() < start + seconds:
            player.round()
            synchronize(device)
            rounds += 1
        results.send(rounds / (time.perf_counter() - start))
