"""`vitucb sweep`: which runs, where they are played, what came of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vitucb.cli.arguments import (
    asks_help,
    parse,
    parse_run,
    pop_values,
    split_options,
    warn_of_ignored,
)
from vitucb.cli.outcome import (
    EndLines,
    fail_unless_all_ended,
    print_errors,
    print_outcome,
    report_command,
)


@dataclass(frozen=True)
class SweepArgs:
    """What to vary, and where to run it; the options of vitucb run set everything else."""

    seeds: int = 1
    """Seeds per setting, counted up from --seed; the same for every setting."""
    engine: str = "processes"
    """See `vitucb list engines`."""
    workers: int | None = None
    """Runs at a time; what cores and memory allow if not given."""
    dry_run: bool = False
    """Only list the runs."""


def sweep(words: list[str]) -> None:
    """Play a grid of settings times seeds, many runs at a time."""
    if not words or asks_help(words):
        print("--config FILE.yaml  settings to start from; options override them")
        print("--grid KEY=A,B ...  values of a setting; several keys are combined")
        print("--list KEY=A,B ...  values of several settings that advance together\n")
        parse(SweepArgs, ["--help"], "sweep")
    from vitucb.cli.catalog import check_names
    from vitucb.experiment.preflight import check_environments, check_places
    from vitucb.experiment.run_folder import RunFolder
    from vitucb.experiment.sweep import expand, parse_all, run_jobs

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
    warn_of_ignored(jobs, "sweep")
    check_places(jobs)
    if args.engine == "processes":  # other engines play where other files may be
        check_environments(jobs)
    if args.dry_run:
        print("\n".join(str(RunFolder.of(job).path) for job in jobs))
        return
    errors = run_jobs(jobs, workers=args.workers, engine=args.engine, on_end=EndLines())
    print_outcome(jobs, report_command(base))
    print_errors(errors)
    fail_unless_all_ended(errors, jobs, "sweep")
    print(Path(base.out) / base.experiment)
