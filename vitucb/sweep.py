"""Many runs on many processes: jobs are configs, results are run folders."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from multiprocessing.sharedctypes import Synchronized
from typing import TYPE_CHECKING

from tqdm import tqdm

from vitucb.config import RunConfig
from vitucb.recorder import is_finished, run_folder

if TYPE_CHECKING:
    from vitucb.types import Round

_POLL_SECONDS = 0.5
_played: Synchronized[int] | None = None


def run_jobs(configs: Sequence[RunConfig], *, workers: int | None = None) -> dict[str, str]:
    """Play every config whose run folder is not finished; slow agents should come first.

    Every job runs in a fresh process with its own torch threads, so the results do not depend on
    the number of workers.

    Args:
        configs: The runs.
        workers: Processes at a time; by default as many as there are cores.

    Returns:
        Error message per failed run folder; empty if all went well.
    """
    jobs = [c for c in configs if c.overwrite or not is_finished(run_folder(c))]
    workers = max(1, min(workers or os.cpu_count() or 1, len(jobs)))
    context = multiprocessing.get_context("spawn")
    played: Synchronized[int] = context.Value("q", 0)
    with ProcessPoolExecutor(workers, context, _set_counter, (played,)) as pool:
        futures = {pool.submit(_play, job): str(run_folder(job)) for job in jobs}
        _show_progress(list(futures), played, sum(job.num_rounds for job in jobs), len(jobs))
    errors = {folder: future.exception() for future, folder in futures.items()}
    return {folder: _one_line(error) for folder, error in errors.items() if error is not None}


def _set_counter(played: Synchronized[int]) -> None:
    global _played
    _played = played


def _play(config: RunConfig) -> None:
    from vitucb.experiment import play

    play(config, _count_round)


def _count_round(round: Round) -> None:
    if _played is not None:
        with _played.get_lock():
            _played.value += 1


def _show_progress(
    futures: Sequence[Future[None]], played: Synchronized[int], rounds: int, jobs: int
) -> None:
    pending = set(futures)
    with tqdm(total=rounds, unit="round", disable=None) as bar:
        while pending:
            _, pending = wait(pending, timeout=_POLL_SECONDS)
            bar.update(played.value - bar.n)
            bar.set_postfix_str(f"{jobs - len(pending)}/{jobs} runs")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
