"""`vitucb demo`: the main job, then a report."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

from vitucb.cli.arguments import parse
from vitucb.cli.output import UsageError
from vitucb.cli.report import ReportArgs, write_report_page
from vitucb.config import EnvConfig, RunConfig, override


@dataclass(frozen=True)
class DemoArgs:
    """Play the main job on real handwritten digits and write a report."""

    num_rounds: int = 500
    """Horizon T of every run."""
    seeds: int = 3
    """Seeds per agent; every agent faces the same streams."""
    num_arms: int = 10
    """Digits on offer each round, K."""
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


DEMO_AGENTS = ("vit-ucb", "lin-ucb", "greedy", "ucb1", "gaussian-ts", "random", "oracle")


def demo(words: list[str]) -> None:
    """Play the main job: vit-ucb and every baseline on handwritten digits, then a report."""
    args = parse(DemoArgs, words, "demo")
    from vitucb.experiment.sweep import run_jobs

    base = RunConfig(
        experiment=f"demo-T{args.num_rounds}-K{args.num_arms}",
        env=EnvConfig(dataset="digits", num_arms=args.num_arms, reward="bernoulli"),
        num_rounds=args.num_rounds,
        out=args.out,
        tensorboard=True,
        overwrite=args.overwrite,
    )
    jobs = [
        dataclasses.replace(override(base, {"agent": name}), seed=seed)
        for name in DEMO_AGENTS
        for seed in range(args.seeds)
    ]
    print(
        f"{len(DEMO_AGENTS)} agents x {args.seeds} seeds x {args.num_rounds} rounds: each round "
        f"shows {args.num_arms} handwritten digits; higher digits pay more often.",
        file=sys.stderr,
    )
    errors = run_jobs(jobs, workers=args.workers)
    for folder, message in errors.items():
        print(f"{folder}: {message}", file=sys.stderr)
    if len(errors) == len(jobs):
        raise UsageError("no run came to its end; see the messages above")
    write_report_page(ReportArgs(str(Path(args.out) / base.experiment), args.report))
