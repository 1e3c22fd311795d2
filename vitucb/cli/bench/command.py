"""`vitucb bench`: which suites to run, and where tables and figures go."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

from vitucb.cli.arguments import parse
from vitucb.cli.bench.figures import draw_figures
from vitucb.cli.bench.results import compare_tables, read_tables, write_tables
from vitucb.cli.output import UsageError, table
from vitucb.devices import check_device, open_device
from vitucb.experiment.preflight import check_writable
from vitucb.experiment.provenance import describe_environment
from vitucb.registry import unknown_name

# What has no meaning off the processor, by suite.
LEFT_OUT = {
    "scoring": "the rows of the prototype, whose arithmetic is timed as it was, on a processor",
    "end-to-end": "shares of phases and of ViT arithmetic: timing a part would wait for the device",
    "scale": "the number of threads, which is the processor's",
}
SUITES = ("scoring", "covariance", "optimizers", "end-to-end", "scale")


@dataclass(frozen=True)
class BenchArgs:
    """Measure speed and memory side by side in one process, on one thread or an accelerator."""

    suite: str = "all"
    """Any of scoring,covariance,optimizers,end-to-end,scale; all if not given."""
    device: str = "cpu"
    """Torch device that is measured, e.g. cpu, cuda."""
    out: str | None = None
    """A .json file to write the tables to, with a figure of each suite beside it."""
    compare: tuple[str, str] | None = None
    """Two such files, the older first: print times of both and their ratios, measure nothing."""


def bench(words: list[str]) -> None:
    """Measure scoring, covariance, optimizers and whole rounds side by side, on one device."""
    args = parse(BenchArgs, words, "bench")
    if args.compare is not None:
        if args != BenchArgs(compare=args.compare):
            raise UsageError("--compare measures nothing; leave out --suite, --device and --out")
        print(table(compare_tables(*map(read_tables, args.compare))))
        return
    asked = suites(args.suite)
    check_device(args.device)
    if args.out is not None:
        if not args.out.endswith(".json"):
            raise ValueError(f"--out {args.out!r} must be a .json file")
        check_writable(Path(args.out).parent, "--out")
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    open_device(args.device)
    facts = describe_environment() | {"device": args.device}
    tables = {}
    for suite in asked:
        module = importlib.import_module(f"vitucb.cli.bench.{suite.replace('-', '_')}")
        tables[suite] = module.run_suite(args.device)
        print(f"{suite}:\n{table(tables[suite])}\n", flush=True)
        if suite in LEFT_OUT and args.device != "cpu":
            print(f"left out on {args.device}: {LEFT_OUT[suite]}", file=sys.stderr)
        if args.out is not None:
            write_tables(args.out, tables, facts)
    if args.out is not None:
        print(args.out, *draw_figures(tables, args.out), sep="\n")


def suites(names: str) -> tuple[str, ...]:
    """The suites in `names`, which commas separate, each once.

    Raises:
        ValueError: If there is no such suite.
    """
    if names == "all":
        return SUITES
    chosen = tuple(dict.fromkeys(name.strip() for name in names.split(",")))
    for name in chosen:
        if name not in SUITES:
            raise unknown_name("suite", name, [*SUITES, "all"])
    return chosen
