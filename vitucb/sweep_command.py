"""`vitucb sweep` and `vitucb tune`: which runs, where they are played, what came of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitucb.command_line import (
    fail,
    parse,
    parse_run,
    pop_values,
    split_options,
    table,
    warn_of_ignored,
)
from vitucb.config import RunConfig, override


@dataclass(frozen=True)
class SweepArgs:
    """What to vary, and where to run it; the options of vitucb run set everything else."""

    seeds: int = 1
    """Seeds per setting, counted up from --seed; the same for every setting."""
    parallel_seeds: int = 1
    """So many seeds of one vit-ucb setting go through the model together, in one process."""
    engine: str = "processes"
    """See `vitucb list engines`."""
    workers: int | None = None
    """Runs at a time; what cores and memory allow if not given."""
    dry_run: bool = False
    """Only list the runs."""


def sweep(words: list[str]) -> None:
    """Play a grid of settings times seeds, many runs at a time."""
    if words in ([], ["-h"], ["--help"]):
        print("--grid KEY=A,B ...  values of a setting; several keys are combined")
        print("--list KEY=A,B ...  values of several settings that advance together\n")
        parse(SweepArgs, ["--help"], "sweep")
    from vitucb.catalog import check_names
    from vitucb.recorder import run_folder
    from vitucb.resume import check_same_config
    from vitucb.sweep import expand, parse_all, run_jobs

    words, grid = pop_values(words, "--grid")
    words, together = pop_values(words, "--list")
    options, words = split_options(words, SweepArgs)
    args = parse(SweepArgs, options, "sweep")
    base = parse_run(words, "sweep")
    jobs = expand(
        base,
        grid=parse_all(grid),
        together=parse_all(together),
        seeds=args.seeds,
    )
    for job in jobs:
        check_names(job)
    if args.parallel_seeds > 1:
        jobs = _shared(jobs, args.parallel_seeds)
    for job in jobs:
        check_same_config(job)
    warn_of_ignored(jobs, "sweep")
    if args.dry_run:
        print("\n".join(str(run_folder(job)) for job in jobs))
        return
    _finish_sweep(base, run_jobs(jobs, workers=args.workers, engine=args.engine), len(jobs))


def _shared(jobs: Sequence[RunConfig], seeds: int) -> list[RunConfig]:
    """The jobs with `parallel.seeds`, where they can share passes."""
    from vitucb.parallel_seeds import why_alone

    reasons = [why_alone(job) for job in jobs]
    for reason in dict.fromkeys(filter(None, reasons)):
        print(f"vitucb sweep: seeds one by one where {reason}", file=sys.stderr)
    return [
        job if reason else override(job, {"parallel": {"seeds": seeds}})
        for job, reason in zip(jobs, reasons, strict=True)
    ]


def _finish_sweep(base: RunConfig, errors: Mapping[str, str], count: int) -> None:
    for folder, message in errors.items():
        print(f"{folder}: {message}", file=sys.stderr)
    if errors:
        remedy = "the same command plays them again, from their checkpoints"
        fail(f"{len(errors)} of {count} runs did not finish; {remedy}", 1)
    print(Path(base.out) / base.experiment)


@dataclass(frozen=True)
class TuneArgs:
    """How much to search, and where to run it; the options of vitucb run set everything else."""

    trials: int = 20
    """Points to try; the first one are the settings as given."""
    seeds: int = 3
    """Runs per point, on seeds of their own."""
    engine: str = "processes"
    """See `vitucb list engines`."""
    workers: int | None = None
    """Runs at a time; what cores and memory allow if not given."""


def tune(words: list[str]) -> None:
    """Search settings by their regret, on seeds and images that evaluations never see."""
    if words in ([], ["-h"], ["--help"]):
        print("--search KEY=LOW..HIGH[:log] KEY=A,B ...  settings to search\n")
        parse(TuneArgs, ["--help"], "tune")
    from vitucb.agents.settings import describe_ignored
    from vitucb.catalog import check_names
    from vitucb.tune import parse_dimension, searched_in_vain
    from vitucb.tune import tune as search

    words, searched = pop_values(words, "--search")
    options, words = split_options(words, TuneArgs)
    args = parse(TuneArgs, options, "tune")
    base = parse_run(words, "tune")
    check_names(base)
    space = [parse_dimension(text) for text in searched]
    warn_of_ignored([base], "tune")
    if keys := searched_in_vain(base, space):
        print(f"vitucb tune: {describe_ignored(base.agent.name, keys)}", file=sys.stderr)
    best, trials = search(
        base,
        space,
        trials=args.trials,
        seeds=args.seeds,
        workers=args.workers,
        engine=args.engine,
    )
    rows = [{"trial": t.number, **t.values, "regret": t.regret} for t in trials]
    print(table(rows), file=sys.stderr)
    print(best)
