"""The `vitucb` command."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from vitucb.bench.command import bench
from vitucb.command_line import (
    UsageError,
    cell,
    fail,
    parse,
    parse_run,
    table,
    warn_of_ignored,
)
from vitucb.config import EnvConfig, RunConfig, override
from vitucb.sweep_command import sweep, tune


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line `arguments`; errors are one line on stderr.

    Exit code 2 if what was asked for cannot be, 1 if it failed, 130 if interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    words = words or ["--help"]
    command = COMMANDS.get(words[0])
    try:
        if words[0] in ("-h", "--help"):
            print(_overview(), flush=True)
            return
        if command is None:
            from vitucb.registry import unknown_name

            raise unknown_name("command", words[0], list(COMMANDS))
        command(words[1:])
    except (UsageError, ValueError, TypeError) as error:
        fail(f"vitucb {words[0]}: {error}")
    except BrokenPipeError:
        # The reader of a pipe (`vitucb list | head`) left; silence the flush at exit too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        fail(f"vitucb {words[0]}: {_file_problem(error)}", 1)
    except KeyboardInterrupt:
        message = "interrupted; the same command goes on from the last checkpoint"
        fail(f"vitucb {words[0]}: {message}", 130)


def _file_problem(error: OSError) -> str:
    """What the system would not do, e.g. write to a full disk, and what helps."""
    where = f" ({error.filename})" if error.filename else ""
    what = f"{error.strerror or error}{where}"
    return f"{what}; mend that, and the same command goes on from what was kept"


def _overview() -> str:
    lines = [f"  {name:10s}{(f.__doc__ or '').splitlines()[0]}" for name, f in COMMANDS.items()]
    return "\n".join(
        [
            "usage: vitucb COMMAND [OPTIONS]",
            "",
            "Online contextual bandits whose arms are images.",
            "",
            *lines,
            "",
            "vitucb COMMAND --help lists the options of a command.",
        ]
    )


def _run(words: list[str]) -> None:
    """Play one agent in one environment and record it."""
    explains = "--resume" in words
    words = [word for word in words if word != "--resume"]
    if words in (["-h"], ["--help"]):
        print("--config FILE.yaml  settings to start from; options override them")
        print("--resume            say what the run folder holds before going on with it\n")
    config = parse_run(words, "run")
    from vitucb.catalog import check_names
    from vitucb.ranks import all_ranks, at_this_rank
    from vitucb.recorder import is_finished, run_folder
    from vitucb.resume import check_same_config, explain

    check_names(config)
    config = at_this_rank(config)
    folder = run_folder(config)
    check_same_config(config)
    if explains:
        print(explain(config), file=sys.stderr)
    is_over = all(is_finished(run_folder(rank)) for rank in all_ranks(config))
    if is_over and not config.overwrite:
        print(f"{folder} is finished; --overwrite plays it again", file=sys.stderr)
        print(folder)
        return
    if not config.parallel.rank:
        warn_of_ignored([config], "run")
    _play_with_progress(config)
    print(folder)


def _play_with_progress(config: RunConfig) -> None:
    from tqdm import tqdm

    from vitucb.experiment import play
    from vitucb.ranks import RankLostError
    from vitucb.resume import StoppedError
    from vitucb.types import Round

    is_hidden = True if config.parallel.rank else None  # None: where stderr is no terminal
    with tqdm(total=config.num_rounds, unit="round", disable=is_hidden) as bar:

        def show(round: Round) -> None:
            bar.set_postfix_str(f"regret {round.cumulative_regret:.1f}", refresh=False)
            bar.update(round.index + 1 - bar.n)

        try:
            recorder = play(config, show)
        except StoppedError as stopped:
            print(f"vitucb run: {stopped}", file=sys.stderr)
            raise SystemExit(0) from None
        except RankLostError as lost:
            fail(f"vitucb run: {lost}", 1)
    print(_counts(recorder.parameters), file=sys.stderr)


def _counts(parameters: dict[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in parameters.items())


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


def _demo(words: list[str]) -> None:
    """Play the main job: vit-ucb and every baseline on handwritten digits, then a report."""
    args = parse(DemoArgs, words, "demo")
    from vitucb.sweep import run_jobs

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
    _write_report(ReportArgs(str(Path(args.out) / base.experiment), args.report))


@dataclass(frozen=True)
class ReportArgs:
    """Write the regret report of an experiment."""

    runs: tyro.conf.Positional[str]
    """Folder of run folders, e.g. runs/default."""
    out: str = "report"
    """Folder of the report."""
    main: str | None = None
    """Label of the agent the others are compared with; vit-ucb if not given."""
    include_unfinished: bool = False
    """Count unfinished runs too, up to the common horizon."""


def _report(words: list[str]) -> None:
    """Write the regret report of an experiment as one HTML file."""
    args = parse(ReportArgs, words, "report")
    _write_report(args)


def _write_report(args: ReportArgs) -> None:
    from vitucb.report import write_report

    page = write_report(
        args.runs, args.out, main=args.main, include_unfinished=args.include_unfinished
    )
    print(page.resolve())


@dataclass(frozen=True)
class EvaluateArgs:
    """Estimate from a log what a saved agent would have earned on it."""

    log: tyro.conf.Positional[str]
    """A .csv, .jsonl or .parquet log, or the folder of a run."""
    policy: str
    """Folder of the run whose agent is evaluated."""
    actions: tuple[str, ...] | None = None
    """What a log of contexts calls the agent's actions 0, 1, ...; needed where the agent does not
    call them the same."""
    confidence: float = 0.95
    """Nominal coverage of the intervals."""
    resamples: int = 2_000
    """Bootstrap resamples."""
    max_weight: float | None = None
    """Limit of clipped-ips and switch-dr; sqrt(rounds) if not given."""
    max_rounds: int | None = None
    """Use the first so many rounds only."""
    seed: int = 0
    """Seed of folds and resamples."""
    threads: int = 1
    """Torch threads."""


def _evaluate(words: list[str]) -> None:
    """Estimate from a log what a saved agent would have earned on it."""
    args = parse(EvaluateArgs, words, "evaluate")
    from vitucb.evaluate import evaluate, use_threads

    use_threads(args.threads)
    result = evaluate(
        args.log,
        args.policy,
        actions=args.actions,
        num_resamples=args.resamples,
        confidence=args.confidence,
        max_weight=args.max_weight,
        max_rounds=args.max_rounds,
        seed=args.seed,
    )
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print("\n".join(f"{name}: {cell(value)}" for name, value in result.facts.items()))
    if result.true_value is not None:
        print(f"true value: {cell(result.true_value)}")
    print(f"\n{table(result.rows())}")


def _list(words: list[str]) -> None:
    """List envs, agents, optimizers, covariances, policies, backbones, datasets or engines."""
    from vitucb.catalog import CATALOG
    from vitucb.registry import unknown_name

    if words and words[0] in ("-h", "--help"):
        print(f"usage: vitucb list [{'|'.join(CATALOG)}]")
        return
    for kind in words or CATALOG:
        if kind not in CATALOG:
            raise unknown_name("kind", kind, list(CATALOG))
        entries = CATALOG[kind]()
        width = max(map(len, entries), default=0) + 2
        print(f"{kind}:")
        for name, line in entries.items():
            print(f"  {name:{width}s}{line}")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "demo": _demo,
    "run": _run,
    "sweep": sweep,
    "tune": tune,
    "report": _report,
    "evaluate": _evaluate,
    "list": _list,
    "bench": bench,
}
