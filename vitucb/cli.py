"""The `vitucb` command."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import itertools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

import tyro

from vitucb.config import EnvConfig, RunConfig, load_config, override

ArgsT = TypeVar("ArgsT")


class _UsageError(Exception):
    """A mistake on the command line, already worded for the user."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line `arguments`; errors are one line on stderr and exit code 2."""
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
    except (_UsageError, ValueError, TypeError) as error:
        _fail(f"vitucb {words[0]}: {error}")
    except BrokenPipeError:
        # The reader of a pipe (`vitucb list | head`) left; silence the flush at exit too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        message = "interrupted; the same command goes on from the last checkpoint"
        _fail(f"vitucb {words[0]}: {message}", 130)


def _fail(message: str, code: int = 2) -> NoReturn:
    print(" ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)


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


def _parse(
    kind: type[ArgsT], words: Sequence[str], command: str, default: ArgsT | None = None
) -> ArgsT:
    """Parse with tyro; its boxed error becomes one line."""
    boxed = io.StringIO()
    start = tyro.MISSING_NONPROP if default is None else default
    try:
        with contextlib.redirect_stderr(boxed):
            return tyro.cli(kind, args=list(words), prog=f"vitucb {command}", default=start)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise _UsageError(_condense(boxed.getvalue(), command)) from None


def _condense(boxed: str, command: str) -> str:
    """The message of tyro's error box and its first suggestion, on one line."""
    rows = [line.strip("│ ") for line in boxed.strip().splitlines()]
    # The title is drawn into the border, or stands above a rule where the stream is ASCII.
    inside = rows[1:] if boxed.strip().startswith("╭") else rows[2:]
    message = " ".join(itertools.takewhile(lambda text: text.strip("─-"), inside))
    hint = ""
    if "Perhaps you meant:" in inside[:-1]:
        option = inside[inside.index("Perhaps you meant:") + 1].split()[0]
        hint = f"; did you mean {option}?"
    return f"{message or 'cannot read the arguments'}{hint}; see vitucb {command} --help"


def _run(words: list[str]) -> None:
    """Play one agent in one environment and record it."""
    words, config_file = _pop_option(words, "--config")
    explains = "--resume" in words
    words = [word for word in words if word != "--resume"]
    default = load_config(config_file) if config_file else RunConfig()
    if words in (["-h"], ["--help"]):
        print("--config FILE.yaml  settings to start from; options override them")
        print("--resume            say what the run folder holds before going on with it\n")
    config = _parse(RunConfig, words, "run", default)
    from vitucb.catalog import check_names
    from vitucb.recorder import is_finished, run_folder
    from vitucb.resume import check_same_config, explain

    check_names(config)
    folder = run_folder(config)
    check_same_config(config)
    if explains:
        print(explain(config), file=sys.stderr)
    if is_finished(folder) and not config.overwrite:
        print(f"{folder} is finished; --overwrite plays it again", file=sys.stderr)
        print(folder)
        return
    _play_with_progress(config)
    print(folder)


def _play_with_progress(config: RunConfig) -> None:
    from tqdm import tqdm

    from vitucb.experiment import play
    from vitucb.resume import StoppedError
    from vitucb.types import Round

    with tqdm(total=config.num_rounds, unit="round", disable=None) as bar:

        def show(round: Round) -> None:
            bar.set_postfix_str(f"regret {round.cumulative_regret:.1f}", refresh=False)
            bar.update(round.index + 1 - bar.n)

        try:
            recorder = play(config, show)
        except StoppedError as stopped:
            print(stopped, file=sys.stderr)
            raise SystemExit(0) from None
    print(_counts(recorder.parameters), file=sys.stderr)


def _counts(parameters: dict[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in parameters.items())


def _pop_option(words: list[str], option: str) -> tuple[list[str], str | None]:
    """`words` without `option VALUE` (or `option=VALUE`), and the value."""
    for i, word in enumerate(words):
        if word.startswith(f"{option}="):
            return words[:i] + words[i + 1 :], word.partition("=")[2]
        if word == option:
            if i + 1 == len(words):
                raise _UsageError(f"{option} needs a file name")
            return words[:i] + words[i + 2 :], words[i + 1]
    return words, None


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


def _sweep(words: list[str]) -> None:
    """Play a grid of settings times seeds, many runs at a time."""
    if words in ([], ["-h"], ["--help"]):
        print("--grid KEY=A,B ...  values of a setting; several keys are combined")
        print("--list KEY=A,B ...  values of several settings that advance together\n")
        _parse(SweepArgs, ["--help"], "sweep")
    from vitucb.catalog import check_names
    from vitucb.recorder import run_folder
    from vitucb.resume import check_same_config
    from vitucb.sweep import expand, parse_values, run_jobs

    words, grid = _pop_values(words, "--grid")
    words, together = _pop_values(words, "--list")
    options, words = _split_options(words, SweepArgs)
    args = _parse(SweepArgs, options, "sweep")
    words, config_file = _pop_option(words, "--config")
    base = _parse(RunConfig, words, "sweep", load_config(config_file) if config_file else None)
    jobs = expand(
        base,
        grid=dict(map(parse_values, grid)),
        together=dict(map(parse_values, together)),
        seeds=args.seeds,
    )
    for job in jobs:
        check_names(job)
        check_same_config(job)
    if args.dry_run:
        print("\n".join(str(run_folder(job)) for job in jobs))
        return
    _finish_sweep(base, run_jobs(jobs, workers=args.workers, engine=args.engine), len(jobs))


def _finish_sweep(base: RunConfig, errors: Mapping[str, str], count: int) -> None:
    for folder, message in errors.items():
        print(f"{folder}: {message}", file=sys.stderr)
    if errors:
        remedy = "the same command plays them again, from their checkpoints"
        _fail(f"{len(errors)} of {count} runs did not finish; {remedy}", 1)
    print(Path(base.out) / base.experiment)


def _pop_values(words: list[str], option: str) -> tuple[list[str], list[str]]:
    """`words` without every `option A B`, and what followed it up to the next option."""
    kept: list[str] = []
    values: list[str] = []
    target = kept
    for word in words:
        if word == option:
            target = values
        elif word.startswith(f"{option}="):
            values.append(word.partition("=")[2])
        else:
            target = kept if word.startswith("--") else target
            target.append(word)
    return kept, values


def _split_options(words: list[str], kind: type[object]) -> tuple[list[str], list[str]]:
    """The words of the options of dataclass `kind`, and the other words."""
    names = {f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(kind)}  # type: ignore[arg-type]  # a dataclass
    names |= {f"--no-{name[2:]}" for name in names}
    ours: list[str] = []
    rest: list[str] = []
    target = rest
    for word in words:
        if word.startswith("--"):
            target = ours if word.partition("=")[0].replace("_", "-") in names else rest
        target.append(word)
    return ours, rest


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


DEMO_AGENTS = ("vit-ucb", "lin-ucb", "greedy", "ucb1", "gaussian-ts", "random", "oracle")


def _demo(words: list[str]) -> None:
    """Play the main job: vit-ucb and every baseline on handwritten digits, then a report."""
    args = _parse(DemoArgs, words, "demo")
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
        raise _UsageError("no run came to its end; see the messages above")
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
    args = _parse(ReportArgs, words, "report")
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
    args = _parse(EvaluateArgs, words, "evaluate")
    from vitucb.evaluate import evaluate, use_threads

    use_threads(args.threads)
    result = evaluate(
        args.log,
        args.policy,
        num_resamples=args.resamples,
        confidence=args.confidence,
        max_weight=args.max_weight,
        max_rounds=args.max_rounds,
        seed=args.seed,
    )
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print("\n".join(f"{name}: {_cell(value)}" for name, value in result.facts.items()))
    if result.true_value is not None:
        print(f"true value: {_cell(result.true_value)}")
    print(f"\n{_table(result.rows())}")


SUITES = ("scoring", "covariance", "optimizers")


@dataclass(frozen=True)
class BenchArgs:
    """Measure speed and memory side by side in one process, on one thread."""

    suite: str = "all"
    """scoring, covariance or optimizers; all if not given."""


def _bench(words: list[str]) -> None:
    """Measure scoring, covariance and optimizers side by side, on one thread."""
    args = _parse(BenchArgs, words, "bench")
    if args.suite not in (*SUITES, "all"):
        from vitucb.registry import unknown_name

        raise unknown_name("suite", args.suite, [*SUITES, "all"])
    for suite in SUITES if args.suite == "all" else (args.suite,):
        rows = importlib.import_module(f"vitucb.bench.{suite}").run_suite()
        print(f"{suite}:\n{_table(rows)}\n")


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as a Markdown table, columns in order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([_cell(row.get(c, "")) for c in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _list(words: list[str]) -> None:
    """List envs, agents, optimizers, covariances, policies, backbones or datasets."""
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
    "sweep": _sweep,
    "report": _report,
    "evaluate": _evaluate,
    "list": _list,
    "bench": _bench,
}
