"""Jobs in processes of this machine: own torch threads each, and none can stop the others."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from ctypes import c_longlong
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from pathlib import Path

from vitucb.config import RunConfig
from vitucb.experiment.engines import JobEnd, OnRounds
from vitucb.experiment.engines.job import play_job
from vitucb.experiment.resume import stop_flag
from vitucb.experiment.run_folder import run_folder

_POLL_SECONDS = 0.5
# torch, timm and peft hold about 0.6 GiB before the first image.
_GIB_PER_JOB = 1.0
_TRIES = 2
_NOT_BEGUN = "stopped before it began"


def play_jobs(
    jobs: Sequence[RunConfig], *, workers: int | None = None, on_rounds: OnRounds | None = None
) -> Iterator[JobEnd]:
    """Play `jobs` and yield each as it ends.

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
    crew = _Crew(jobs, max(1, min(workers or workers_that_fit(jobs), len(jobs))))
    with stop_flag(signal.SIGTERM, signal.SIGINT) as stop:
        try:
            while crew.is_busy:
                if stop.is_set():
                    yield from ((job, _NOT_BEGUN) for job in crew.stop())
                crew.start_idle()
                yield from crew.ended()
                if on_rounds is not None:
                    on_rounds(crew.played)
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
    return max(1, by_cores if free is None else min(by_cores, int(free / _GIB_PER_JOB)))


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

    def __init__(self, jobs: Sequence[RunConfig], size: int) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._queue, self._size = deque(jobs), size
        self._workers: list[_Worker] = []
        self._deaths: Counter[Path] = Counter()
        self._played_by_the_dead = 0
        self._is_stopping = False

    @property
    def is_busy(self) -> bool:
        return bool(self._queue) or any(worker.job for worker in self._workers)

    @property
    def played(self) -> int:
        """Rounds of all jobs so far."""
        return self._played_by_the_dead + sum(worker.played.value for worker in self._workers)

    def start_idle(self) -> None:
        """Give waiting jobs to idle workers, and hire some where there is room."""
        idle = [worker for worker in self._workers if worker.job is None]
        while self._queue:
            if not idle and len(self._workers) == self._size:
                return
            if not idle:
                idle.append(_Worker(self._context))
                self._workers.append(idle[-1])
            idle.pop().give(self._queue.popleft())

    def ended(self) -> Iterator[JobEnd]:
        """Wait a little, and yield the jobs that ended."""
        ready = wait([worker.pipe for worker in self._workers], timeout=_POLL_SECONDS)
        for worker in [w for w in self._workers if w.pipe in ready]:
            job = worker.job
            try:
                error: str | None = worker.pipe.recv()
                worker.job = None
            except (EOFError, ConnectionError):
                worker.process.join()
                self._workers.remove(worker)
                # Rounds of the job that it died over are told again by who resumes it.
                self._played_by_the_dead += worker.played_before
                error = f"its process died with exit code {worker.process.exitcode}"
                if job is not None and self._deserves_another_try(job):
                    self._queue += [dataclasses.replace(job, overwrite=False)]
                    continue
            if job is not None:
                yield job, error

    def _deserves_another_try(self, job: RunConfig) -> bool:
        folder = run_folder(job)
        self._deaths[folder] += 1
        return self._deaths[folder] < _TRIES and not self._is_stopping

    def stop(self) -> list[RunConfig]:
        """Start nothing more, and ask every worker to finish its round; what has not begun."""
        left = list(self._queue)
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
    """A process that plays one job after the other.

    Attributes:
        job: What it plays now, None while idle.
        played: Rounds of all its jobs; it alone writes, so there is no lock to die with.
        played_before: Those of earlier jobs than the one it plays.
        pipe: Takes a job, gives back an error in one line, or None.
    """

    def __init__(self, context: SpawnContext) -> None:
        self.pipe, theirs = context.Pipe()
        self.played, self.played_before = context.RawValue(c_longlong, 0), 0
        self.process = context.Process(target=_work, args=(theirs, self.played), daemon=True)
        self.process.start()
        theirs.close()
        self.job: RunConfig | None = None

    def give(self, job: RunConfig) -> None:
        self.job, self.played_before = job, self.played.value
        # A worker that died idle is found at the other end of its pipe, as one that dies at work.
        with contextlib.suppress(ConnectionError):
            self.pipe.send(job)


def _work(pipe: Connection, played: c_longlong) -> None:
    # Ctrl-C reaches the whole group of processes; the parent passes it on as SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def count(rounds: int) -> None:
        played.value += rounds

    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            pipe.send(play_job(pipe.recv(), count))


def _end_with_parent() -> None:
    """Finish the round and write a checkpoint when the parent is killed, who cannot ask for it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
