"""`vitucb demo`: the main job, then a report."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

from vitucb.cli.arguments import parse
from vitucb.cli.outcome import EndLines, fail_unless_all_ended, print_errors, print_outcome
from vitucb.cli.output import UsageError
from vitucb.cli.report import ReportArgs, write_report_page
from vitucb.config import EnvConfig, RunConfig, override


@dataclass(frozen=True)
class DemoArgs:
    """Play two laws of real handwritten digits, image arms and labels, and write a report."""

    num_rounds: int = 500
    """Horizon T of every run."""
    seeds: int = 3
    """Seeds per agent; every agent faces the same streams."""
    num_arms: int = 10
    """Digits on offer each round, and labels to choose from, K."""
    out: str = "runs"
    """Folder of experiments."""
    report: str = "report"
    """Folder of the report."""
    workers: int | None = None
    """Processes; one per core if not given."""
    overwrite: bool = False
    """Play finished runs again."""

    def __post_init__(self) -> None:
        """Refuse a demo of nothing."""
        if self.seeds < 1:
            raise ValueError(f"seeds {self.seeds} must be at least 1")


AGENTS_OF_ARMS = ("vit-ucb", "kernel-ucb", "item-ucb", "lin-ucb", "ucb1", "random", "oracle")
AGENTS_OF_LABELS = ("vit-ucb", "item-ucb", "lin-ucb", "ucb1", "random", "oracle")


def demo(words: list[str]) -> None:
    """Play vit-ucb and simpler agents on two laws of handwritten digits, then write a report."""
    args = parse(DemoArgs, words, "demo")
    from vitucb.experiment.preflight import check_environments, check_places, check_writable
    from vitucb.experiment.sweep import run_jobs

    jobs = _jobs(args)
    check_places(jobs)
    check_writable(Path(args.report), "--report")
    check_environments(jobs)
    print(
        f"{len(jobs)} runs of {args.num_rounds} rounds. Image arms: each round shows "
        f"{args.num_arms} handwritten digits; higher digits pay more often. Labels: each round "
        "shows one, and 1 is paid for naming it.",
        file=sys.stderr,
    )
    errors = run_jobs(jobs, workers=args.workers, on_end=EndLines())
    print_errors(errors)
    if len(errors) == len(jobs):
        raise UsageError("no run came to its end; see the messages above")
    print_outcome(
        jobs,
        "open the page below in a browser; then vitucb run --env.dataset FOLDER, with a folder of "
        "your images for each class",
    )
    write_report_page(ReportArgs(str(Path(args.out) / jobs[0].experiment), args.report))
    fail_unless_all_ended(errors, jobs, "demo")


def _jobs(args: DemoArgs) -> list[RunConfig]:
    """The runs of both laws, those of one seed together."""
    base = RunConfig(
        experiment=f"demo-T{args.num_rounds}-K{args.num_arms}",
        num_rounds=args.num_rounds,
        out=args.out,
        tensorboard=True,
        overwrite=args.overwrite,
    )
    arms = EnvConfig(dataset="digits", num_arms=args.num_arms, reward="bernoulli")
    labels = EnvConfig(id="vitucb/ImageContext-v0", dataset="digits", num_arms=args.num_arms)
    return [
        dataclasses.replace(override(base, {"agent": name}), env=env, seed=seed)
        for env, names in ((arms, AGENTS_OF_ARMS), (labels, AGENTS_OF_LABELS))
        for seed in range(args.seeds)
        for name in names
    ]
