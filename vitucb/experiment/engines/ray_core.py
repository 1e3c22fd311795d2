"""Jobs as Ray tasks: joins the cluster in $RAY_ADDRESS, or starts one on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from vitucb.config import RunConfig
from vitucb.experiment.engines import JobEnd, OnRounds
from vitucb.experiment.engines.job import one_line, play_job
from vitucb.experiment.engines.processes import workers_that_fit
from vitucb.registry import import_extra

_POLL_SECONDS = 1.0
# A dead worker's job is tried again on another one, where it resumes from its checkpoint.
_RETRIES = 3
_GPU_SHARE = 0.25


def play_jobs(
    jobs: Sequence[RunConfig], *, workers: int | None = None, on_rounds: OnRounds | None = None
) -> Iterator[JobEnd]:
    """Play `jobs` and yield each as it ends; a job on a GPU takes a quarter of one.

    Args:
        jobs: The runs, in the order in which they start.
        workers: Runs at a time on a local cluster; a running one has its own cores.
        on_rounds: Told the rounds of the jobs that ended.

    Raises:
        ValueError: If Ray is not installed, or does not start.
    """
    ray = import_extra("ray", "ray", "--engine ray")
    has_cluster = "RAY_ADDRESS" in os.environ
    if not ray.is_initialized():
        at_a_time = workers or workers_that_fit(jobs)
        threads = max((job.threads for job in jobs), default=1)
        _start(ray, None if has_cluster else at_a_time * threads)
    task = ray.remote(play_job)
    waiting = {_submit(task, job): job for job in jobs}
    rounds = 0
    while waiting:
        done, _ = ray.wait(list(waiting), num_returns=1, timeout=_POLL_SECONDS)
        for reference in done:
            job = waiting.pop(reference)
            rounds += job.num_rounds
            yield job, _result(ray, reference)
        if on_rounds is not None:
            on_rounds(rounds)


def _start(ray: Any, cores: int | None) -> None:
    try:
        ray.init(num_cpus=cores, log_to_driver=False, include_dashboard=None)
    except Exception as error:  # Ray raises plain exceptions where a process of its own is late
        raise ValueError(
            f"--engine ray: Ray did not start ({one_line(error)}); it waits for its own processes "
            "for half a minute, which a busy machine may exceed: try again, or leave --engine out"
        ) from error


def _submit(task: Any, job: RunConfig) -> Any:
    gpus = 0 if job.device == "cpu" else _GPU_SHARE
    # Tried again, a run that is to begin anew would begin anew again.
    retries = 0 if job.overwrite else _RETRIES
    options = {"num_cpus": job.threads, "num_gpus": gpus, "max_retries": retries}
    return task.options(**options).remote(job)


def _result(ray: Any, reference: Any) -> str | None:
    try:
        error: str | None = ray.get(reference)
    except ray.exceptions.RayError as failure:
        return one_line(failure)
    return error
