"""Jobs in processes of this machine: own torch threads each, and none can stop the others."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from vitucb.config import RunConfig
from vitucb.experiment.engines import OnRounds, Outcome, unfinished
from vitucb.experiment.engines.job import play_together
from vitucb.experiment.resume import stop_flag
from vitucb.experiment.run_folder import run_folder
from vitucb.parallel_seeds import together

_POLL_SECONDS = 0.5
# torch, timm and peft hold about 0.6 GiB before the first image.
_GIB_PER_JOB = 1.0
_GIB_PER_SEED = 0.4
_TRIES = 2
_NOT_BEGUN = "stopped before it began"


def play_jobs(
    jobs: Sequence[RunConfig], *, workers: int | None = None, on_rounds: OnRounds | None = None
) -> Iterator[Outcome]:
    """Play `jobs` and yield each as it ends; those that share passes share a worker.

    A worker that dies (out of memory, say) costs its job one more try, which resumes it. SIGTERM
    and Ctrl-C let every worker finish its round and write a checkpoint; what has not begun then
    ends, too, as not begun.

    Args:
        jobs: The runs, in the order in which they start.
        workers: Processes at a time; as many as cores and memory allow if None.
        on_rounds: Told how many rounds all jobs together have played.

    Raises:
        KeyboardInterrupt: After the last outcome, where SIGTERM or Ctrl-C came.
    """
    groups = together(jobs)
    crew = _Crew(groups, max(1, min(workers or workers_that_fit(jobs), len(groups))))
    with stop_flag(signal.SIGTERM, signal.SIGINT) as stop:
        try:
            while crew.is_busy:
                if stop.is_set():
                    yield from ((job, _NOT_BEGUN) for job in crew.stop())
                crew.start_idle()
                yield from crew.ended()
                if on_rounds is not None:
                    on_rounds(crew.played.value)
        finally:
            crew.stop()
            crew.join()
        if stop.is_set():
            raise KeyboardInterrupt


def workers_that_fit(jobs: Sequence[RunConfig]) -> int:
    """How many processes this machine's cores and free memory carry at a time, at least 1."""
    threads = max((job.threads for job in jobs), default=1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    by_cores = (cores or 1) // threads
    free = _free_gib()
    most = max(map(len, together(jobs)), default=1)
    needed = _GIB_PER_JOB + (most - 1) * _GIB_PER_SEED
    return max(1, by_cores if free is None else min(by_cores, int(free / needed)))


def _free_gib() -> float | None:
    """Memory that new processes can have, GiB; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = {line.split(":")[0]: line.split()[1] for line in lines if len(line.split()) > 1}
    return int(sizes["MemAvailable"]) / 1024**2 if "MemAvailable" in sizes else None


class _Crew:
    """The worker processes and what is left to do."""

    def __init__(self, groups: Sequence[list[RunConfig]], size: int) -> None:
        self._context = multiprocessing.get_context("spawn")
        self.played: Synchronized[int] = self._context.Value("q", 0)
        self._queue, self._size = deque(groups), size
        self._workers: list[_Worker] = []
        self._deaths: Counter[Path] = Counter()
        self._is_stopping = False

    @property
    def is_busy(self) -> bool:
        return bool(self._queue) or any(worker.jobs for worker in self._workers)

    def start_idle(self) -> None:
        """Give waiting jobs to idle workers, and hire some where there is room."""
        idle = [worker for worker in self._workers if not worker.jobs]
        while self._queue:
            if not idle and len(self._workers) == self._size:
                return
            if not idle:
                idle.append(_Worker(self._context, self.played))
                self._workers.append(idle[-1])
            idle.pop().give(self._queue.popleft())

    def ended(self) -> Iterator[Outcome]:
        """Wait a little, and yield the jobs that ended."""
        ready = wait([worker.pipe for worker in self._workers], timeout=_POLL_SECONDS)
        for worker in [w for w in self._workers if w.pipe in ready]:
            jobs = worker.jobs
            try:
                errors: list[str | None] = worker.pipe.recv()
                worker.jobs = []
            except (EOFError, ConnectionError):
                worker.process.join()
                self._workers.remove(worker)
                errors = [f"its process died with exit code {worker.process.exitcode}"] * len(jobs)
                if jobs and self._deserves_another_try(jobs[0]):
                    left = unfinished(jobs)
                    self._queue += [left] if left else []
                    yield from ((job, None) for job in jobs if job not in left)
                    continue
            yield from zip(jobs, errors, strict=True)

    def _deserves_another_try(self, job: RunConfig) -> bool:
        folder = run_folder(job)
        self._deaths[folder] += 1
        return self._deaths[folder] < _TRIES and not self._is_stopping

    def stop(self) -> list[RunConfig]:
        """Start nothing more, and ask every worker to finish its round; what has not begun."""
        left = [job for jobs in self._queue for job in jobs]
        self._queue.clear()
        if not self._is_stopping:
            for worker in self._workers:
                worker.process.terminate()
        self._is_stopping = True
        return left

    def join(self) -> None:
        """Wait for every worker."""
        for worker in self._workers:
            worker.pipe.close()
            worker.process.join()


class _Worker:
    """A process that plays one group of jobs after the other.

    Attributes:
        jobs: What it plays now, nothing while idle.
        pipe: Takes jobs, gives back for each an error in one line, or None.
    """

    def __init__(self, context: SpawnContext, played: Synchronized[int]) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, played), daemon=True)
        self.process.start()
        theirs.close()
        self.jobs: list[RunConfig] = []

    def give(self, jobs: list[RunConfig]) -> None:
        self.jobs = jobs
        self.pipe.send(jobs)


def _work(pipe: Connection, played: Synchronized[int]) -> None:
    # Ctrl-C reaches the whole group of processes; the parent passes it on as SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def count(rounds: int) -> None:
        with played.get_lock():
            played.value += rounds

    while True:
        try:
            jobs = pipe.recv()
        except (EOFError, ConnectionError):
            return
        pipe.send(play_together(jobs, count))
