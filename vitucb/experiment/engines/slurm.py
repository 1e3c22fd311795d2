"""Jobs as one Slurm array through submitit; without Slurm, as those of `processes`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vitucb.config import RunConfig
from vitucb.experiment.engines import JobEnd, OnRounds, processes
from vitucb.experiment.engines.job import one_line, play_job
from vitucb.registry import import_extra

_POLL_SECONDS = 2.0
_TIMEOUT_MINUTES = 24 * 60
_MEMORY_GB = 4


class Task:
    """A job that Slurm may preempt: it is queued again, and resumes from its checkpoint."""

    def __call__(self, job: RunConfig) -> str | None:
        """Play `job`; the error in one line, or None."""
        return play_job(job)

    def checkpoint(self, job: RunConfig) -> Any:
        """What submitit queues again after a preemption or a timeout."""
        return import_extra("submitit", "slurm", "--engine submitit").helpers.DelayedSubmission(
            self, dataclasses.replace(job, overwrite=False)
        )


def play_jobs(
    jobs: Sequence[RunConfig], *, workers: int | None = None, on_rounds: OnRounds | None = None
) -> Iterator[JobEnd]:
    """Play `jobs` and yield each as it ends; what has not ended when it is stopped is cancelled.

    Args:
        jobs: The runs; their logs go to `.submitit` beside the run folders.
        workers: Jobs of the array that run at a time; all if None.
        on_rounds: Told the rounds of the jobs that ended.

    Raises:
        ValueError: If submitit is not installed.
    """
    submitit = import_extra("submitit", "slurm", "--engine submitit")
    if submitit.AutoExecutor.which() == "local":
        # Its own local jobs would all start at once, and go on after a Ctrl-C.
        yield from processes.play_jobs(jobs, workers=workers, on_rounds=on_rounds)
        return
    first = jobs[0]
    logs = Path(first.out) / first.experiment / ".submitit"
    executor = submitit.AutoExecutor(folder=logs)
    executor.update_parameters(
        name=f"vitucb-{first.experiment}".replace("/", "-"),
        timeout_min=_TIMEOUT_MINUTES,
        cpus_per_task=max(job.threads for job in jobs),
        mem_gb=_MEMORY_GB,
        gpus_per_node=0 if all(job.device == "cpu" for job in jobs) else 1,
        slurm_array_parallelism=workers or len(jobs),
    )
    waiting = list(zip(executor.map_array(Task(), jobs), jobs, strict=True))
    rounds = 0
    try:
        while waiting:
            for handle, job in [pair for pair in waiting if pair[0].done()]:
                waiting.remove((handle, job))
                rounds += job.num_rounds
                yield job, _result(submitit, handle)
            if on_rounds is not None:
                on_rounds(rounds)
            if waiting:
                time.sleep(_POLL_SECONDS)
    finally:
        for handle, _ in waiting:
            handle.cancel(check=False)


def _result(submitit: Any, handle: Any) -> str | None:
    try:
        error: str | None = handle.result()
    except submitit.core.utils.UncompletedJobError as failure:
        return one_line(failure)
    return error
