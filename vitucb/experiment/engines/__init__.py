"""Where the jobs of a sweep run; a job is a config and its result a run folder, everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from vitucb.config import RunConfig

JobEnd: TypeAlias = tuple[RunConfig, str | None]
"""A job that ended, and what went wrong in one line, or None."""

Engine: TypeAlias = Callable[..., Iterator[JobEnd]]
"""Called with the jobs, and the keywords `workers` (None: what fits) and `on_rounds`."""

OnRounds: TypeAlias = Callable[[int], None]
"""Told from time to time how many rounds all jobs together have played."""

ENGINES: Mapping[str, tuple[str, str]] = {
    "processes": ("vitucb.experiment.engines.processes:play_jobs", "processes of this machine"),
    "ray": (
        "vitucb.experiment.engines.ray_core:play_jobs",
        "a Ray cluster ($RAY_ADDRESS), or a local one",
    ),
    "submitit": (
        "vitucb.experiment.engines.slurm:play_jobs",
        "Slurm jobs; without Slurm as processes",
    ),
}
"""Name -> (import path, one line)."""
