"""Seeds of `vit-ucb` through one pass of the model: what a round of each costs.

CPU time of one thread of torch per process, median of blocks of rounds that alternate between the
numbers of seeds; and tensor operations, which is what a device that waits for its next small
operation takes time for. Rounds as in `vitucb.cli.bench.end_to_end`: 10 of 369 digits of the packaged
set, all seen before, full batches of training; no rebuild, which seeds do not share.

Images and adapters of a seed are its own, so its products are too: what is shared is the wait for
operations. The *limit* is how many times faster than alone a seed would be if nothing but the
arithmetic of the ViT took time, as it is measured in `vitucb.cli.bench.end_to_end`.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator

import gymnasium as gym

import vitucb
from vitucb.agents.vit_ucb import ViTUCB
from vitucb.cli.bench.end_to_end import NetworkTime, Phases, show_history, watch_agent
from vitucb.cli.bench.optimizers import CountOperations
from vitucb.cli.bench.scoring import ARMS, Row, one_thread
from vitucb.config import ParallelConfig, RunConfig, override
from vitucb.envs.data.datasets import load_dataset
from vitucb.parallel_seeds import Seat, Table
from vitucb.types import Round

NUMBERS = (1, 2, 4, 8)
BLOCKS, ROUNDS = 6, 5


class Group:
    """Seeds 0 to n - 1 of one setting, in threads; one seed plays as ever."""

    def __init__(self, seeds: int) -> None:
        """Build `seeds` agents in environments of their own."""
        base = RunConfig(parallel=ParallelConfig(seeds=seeds))
        jobs = [override(base, {"seed": seed}) for seed in range(seeds)]
        taken: list[Seat | None] = [None]
        if seeds > 1:
            taken = list(Table(jobs).seats(threading.Event()))
        dataset = load_dataset("digits", split="tune")
        images = [dataset.images[i] for i in range(len(dataset.images))]
        self._runs: list[Iterator[Round]] = []
        self._phases: dict[Iterator[Round], Phases] = {}
        for job, seat in zip(jobs, taken, strict=True):
            env = gym.make(
                "vitucb/ImageArms-v0", dataset=dataset, num_arms=ARMS, max_episode_steps=10**6
            )
            agent = vitucb.make_agent("vit-ucb", env, seed=job.seed, training={"rebuild": "none"})
            assert isinstance(agent, ViTUCB)
            if seat is not None:
                seat.take(agent, job)
            show_history(agent, images)
            self._runs.append(vitucb.run(env, agent, seed=job.seed))
            self._phases[self._runs[-1]] = phases = Phases()
            watch_agent(phases, agent)

    def play(self, rounds: int) -> float:
        """CPU time of a round of one seed, ms, over `rounds` rounds of all."""
        start = time.process_time()
        self._each(lambda run: [next(run) for _ in range(rounds)])
        return 1e3 * (time.process_time() - start) / (rounds * len(self._runs))

    def operations(self) -> float:
        """Tensor operations of a round of one seed, views not counted."""
        counts: list[int] = []

        def count(run: Iterator[Round]) -> None:
            with CountOperations() as operations:
                next(run)
            counts.append(operations.count)

        self._each(count)
        return statistics.fmean(counts)

    def arithmetic(self, rounds: int = 3) -> float:
        """CPU time of the arithmetic of the ViT in a round of one seed, ms; the least of some."""
        return min(self._arithmetic() for _ in range(rounds))

    def _arithmetic(self) -> float:
        seconds: list[float] = []

        def measure(run: Iterator[Round]) -> None:
            with NetworkTime(self._phases[run]) as network:
                next(run)
            seconds.append(network.seconds)

        self._each(measure)
        return 1e3 * statistics.fmean(seconds)

    def _each(self, work: Callable[[Iterator[Round]], object]) -> None:
        threads = [threading.Thread(target=work, args=(run,)) for run in self._runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def run_suite(blocks: int = BLOCKS, numbers: tuple[int, ...] = NUMBERS) -> list[Row]:
    """The table of `vitucb bench --suite seeds`; about two minutes."""
    with one_thread():
        groups = {number: Group(number) for number in numbers}
        for group in groups.values():
            group.play(2)
        times: dict[int, list[float]] = {number: [] for number in numbers}
        for _ in range(blocks):
            for number, group in groups.items():
                times[number].append(group.play(ROUNDS))
        ms = {number: statistics.median(of) for number, of in times.items()}
        operations = {number: group.operations() for number, group in groups.items()}
        arithmetic = {number: group.arithmetic() for number, group in groups.items()}
    return [
        {
            "model": "vitucb-nano (32 px)",
            "seeds": number,
            "ms": ms[number],
            "x alone": ms[number] / ms[numbers[0]],
            "ViT arithmetic, ms": arithmetic[number],
            "limit": ms[numbers[0]] / arithmetic[number],
            "operations": operations[number],
            "x operations alone": operations[number] / operations[numbers[0]],
        }
        for number in numbers
    ]
