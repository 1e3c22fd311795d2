"""`vitucb bench`: which suites to run, and where tables and figures go."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from vitucb.bench.figures import draw_figures
from vitucb.bench.results import compare_tables, read_tables, write_tables
from vitucb.command_line import parse, table
from vitucb.provenance import describe_environment
from vitucb.registry import unknown_name

SUITES = ("scoring", "covariance", "optimizers", "end-to-end", "scale", "seeds")


@dataclass(frozen=True)
class BenchArgs:
    """Measure speed and memory side by side in one process, on one thread."""

    suite: str = "all"
    """scoring, covariance, optimizers, end-to-end, scale or seeds; all if not given."""
    out: str | None = None
    """A .json file to write the tables to, with a figure of each suite beside it."""
    compare: tuple[str, str] | None = None
    """Two such files, the older first: print times of both and their ratios, measure nothing."""


def bench(words: list[str]) -> None:
    """Measure scoring, covariance, optimizers and whole rounds side by side, on one thread."""
    args = parse(BenchArgs, words, "bench")
    if args.compare is not None:
        print(table(compare_tables(*map(read_tables, args.compare))))
        return
    if args.suite not in (*SUITES, "all"):
        raise unknown_name("suite", args.suite, [*SUITES, "all"])
    tables = {}
    for suite in SUITES if args.suite == "all" else (args.suite,):
        module = importlib.import_module(f"vitucb.bench.{suite.replace('-', '_')}")
        tables[suite] = module.run_suite()
        print(f"{suite}:\n{table(tables[suite])}\n")
    if args.out is not None:
        write_tables(args.out, tables, describe_environment())
        print(args.out, *draw_figures(tables, args.out), sep="\n")
