"""What a sweep costs beside its runs: 16 runs on two workers, and two times eight without it.

    python scripts/benchmarks/bench_sweep.py [--ways NAME ..] [--trials N] [--out FOLDER]

Runs of `vit-ucb` on the packaged digits, 16 seeds, one thread each. `alone` are two processes that
play half of them each, one after the other; the others are `vitucb sweep --workers 2` with that
engine (ray needs `vitucb[ray]`). Time on the clock and CPU time of all processes, from the start of
the workers, or of Ray's local cluster, to the last run's end, the ways in turn. The efficiency is
the time alone over that of the sweep in the same turn. Where other jobs use the cores, the clock
mostly tells of them: `busy` is the share of two cores that was had. Trials that `--out` has are
kept.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Final, Literal, TypeAlias

from process_tools import tree_cpu_seconds

from vitucb.cli.output import table
from vitucb.config import RunConfig, override
from vitucb.experiment.sweep import expand, run_jobs

Way: TypeAlias = Literal["alone", "processes", "ray"]
Row: TypeAlias = dict[str, str | float]

REFERENCE: Final = "alone"
WAYS: Final[tuple[Way, ...]] = ("alone", "processes", "ray")
WORKERS: Final = 2
HEADER: Final = ("runs", "rounds", "trial", "way", "s", "CPU s")


def jobs_of(runs: int, rounds: int, out: Path) -> list[RunConfig]:
    """The runs of the sweep."""
    base = override(RunConfig(), {"agent": "vit-ucb", "tensorboard": False})
    base = replace(base, experiment="sweep", num_rounds=rounds, out=str(out))
    return expand(base, seeds=runs)


def play_in_turn(jobs: Sequence[RunConfig]) -> None:
    """Play runs one after the other in this process."""
    from vitucb.experiment.playing import play

    for job in jobs:
        play(job)


def play_alone(jobs: Sequence[RunConfig]) -> None:
    """Play runs in as many processes as there are workers, each its part of them."""
    context = get_context("spawn")
    crew = [
        context.Process(target=play_in_turn, args=(jobs[first::WORKERS],))
        for first in range(WORKERS)
    ]
    for process in crew:
        process.start()
    for process in crew:
        process.join()
    if any(process.exitcode for process in crew):
        sys.exit("a process that played runs alone has failed; see above")


def measure(runs: int, rounds: int, trial: int, way: Way, path: Path) -> None:
    """Play all runs one way, in this process and those it starts, and add the trial to a table."""
    with tempfile.TemporaryDirectory() as out:
        jobs = jobs_of(runs, rounds, Path(out))
        began, spent = time.perf_counter(), tree_cpu_seconds(os.getpid())
        if way == "alone":
            play_alone(jobs)
        elif errors := run_jobs(jobs, workers=WORKERS, engine=way):
            sys.exit(f"{way}: {len(errors)} runs failed: {next(iter(errors.values()))}")
        seconds = time.perf_counter() - began
        # While Ray's processes are there.
        cpu = tree_cpu_seconds(os.getpid()) - spent
        if way == "ray":
            import ray

            ray.shutdown()
    cells = (runs, rounds, trial, way, seconds, cpu)
    write_rows(path, [*read_trials(path), dict(zip(HEADER, cells, strict=True))])


def read_trials(path: Path) -> list[Row]:
    """Trials measured so far, rows of `HEADER`."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [
            {name: text if name == "way" else float(text) for name, text in row.items()}
            for row in csv.DictReader(file)
        ]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def summary(trials: Sequence[Row]) -> list[Row]:
    """A row for each size of the sweep and way: medians, and the efficiencies.

    Args:
        trials: Rows of `HEADER`. Those count that were played alone, too.
    """
    alone = {(*size_of(t), t["trial"]): t for t in trials if t["way"] == REFERENCE}
    made: list[Row] = []
    for size, way in itertools.product(dict.fromkeys(map(size_of, trials)), WAYS):
        found = [t for t in trials if (size_of(t), t["way"]) == (size, way)]
        pairs = [(t, alone[key]) for t in found if (key := (*size, t["trial"])) in alone]
        if pairs:
            made.append({"runs": size[0], "rounds": size[1], "way": way} | compared(pairs))
    return made


def size_of(trial: Row) -> tuple[int, int]:
    """Runs, and rounds of each."""
    return int(trial["runs"]), int(trial["rounds"])


def compared(pairs: Sequence[tuple[Row, Row]]) -> Row:
    """Figures of trials of one way, each with the one alone of the same turn."""

    def values(name: str) -> list[float]:
        return [float(trial[name]) for trial, _ in pairs]

    def gains(name: str) -> list[float]:
        return [float(alone[name]) / float(trial[name]) for trial, alone in pairs]

    busy = [cpu / s / WORKERS for cpu, s in zip(values("CPU s"), values("s"), strict=True)]
    return {
        "trials": len(pairs),
        "s": statistics.median(values("s")),
        "CPU s": statistics.median(values("CPU s")),
        "busy": statistics.median(busy),
        "efficiency": statistics.median(gains("s")),
        "least": min(gains("s")),
        "most": max(gains("s")),
        "by CPU time": statistics.median(gains("CPU s")),
    }


def main(words: Sequence[str]) -> None:
    """Measure the ways in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=300, help="of each run")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/growth"))
    args = parser.parse_args(words)
    if "ray" in args.ways and importlib.util.find_spec("ray") is None:
        parser.error("--ways ray needs Ray; pip install 'vitucb[ray]', or leave it out")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "sweep-trials.csv"
    for trial, way in ((trial, way) for trial in range(args.trials) for way in args.ways):
        known = [(*size_of(t), t["trial"], t["way"]) for t in read_trials(path)]
        if (args.runs, args.rounds, trial, way) not in known:
            in_a_process(measure, args.runs, args.rounds, trial, way, path)
    rows = summary(read_trials(path))
    if rows:
        write_rows(args.out / "sweep.csv", rows)
        print(table(rows))


def in_a_process(call: Callable[..., None], *arguments: object) -> None:
    """Call in a process of its own, where no module is loaded and no cluster runs."""
    process = get_context("spawn").Process(target=call, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{arguments} ended with code {process.exitcode}; see above")


if __name__ == "__main__":
    main(sys.argv[1:])
