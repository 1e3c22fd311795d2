"""How a round of `vit-ucb` grows with the number of rounds and of arms, by part, and its memory.

    python scripts/benchmarks/bench_growth.py [--cases NAME ..] [--rounds N] [--out FOLDER]

The packaged digits on the embedded backbone, default settings, one thread: an image per arm, and
one image with ten labels. CPU time of whole rounds of a run (environment, agent and recorder), the
median of the 50 up to round 100, 1,000, .., beside that of round 100, with and without the
features, which are dear while images are new; and the mean since the last of those, in which the
experts' fits count, too.
Each case has a process of its own and takes up where it was stopped. Writes a CSV file of all
rounds for each case, and the table as `growth.csv`.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from process_tools import resident_mib

from vitucb.cli.output import table
from vitucb.config import RunConfig
from vitucb.config.override import override_keys
from vitucb.envs.data.datasets import load_dataset
from vitucb.types import Round

Row: TypeAlias = dict[str, str | float]
WINDOW = 50
PARTS = ("features", "kernel", "linear", "softmax", "kernel-softmax", "adapted")
COLUMNS = ("round", "ms", *(f"{part}, ms" for part in PARTS), "MiB")


@dataclass(frozen=True, slots=True)
class Case:
    """What is played.

    Attributes:
        arms: K.
        rounds: T.
        shifts: Places that each of the 1,797 digits is moved to, which makes as many images of it.
        has_labels: Whether one image is the context of ten labels, not every arm an image.
    """

    arms: int
    rounds: int
    shifts: int = 1
    has_labels: bool = False

    def settings(self, folder: Path) -> dict[str, Any]:
        """What is played, with the images that it needs written to `folder`."""
        if self.has_labels:
            return {
                "env.id": "vitucb/ImageContext-v0",
                "env.dataset": "digits",
            }
        return {
            "env.dataset": str(write_images(self.shifts, folder)),
            "env.num_arms": self.arms,
            "env.reward": "score",
        }


CASES = {
    "10 arms": Case(10, 100_000),
    "10 labels": Case(10, 100_000, has_labels=True),
    "3 arms, mostly new images": Case(3, 10_000, shifts=81),
    "100 arms": Case(100, 1_000),
    "1,000 arms": Case(1_000, 1_000),
}


def write_images(shifts: int, folder: Path) -> Path:
    """A file of the digits, each moved to `shifts` places, and rated by the digit."""
    file = folder / f"digits-{shifts}.npz"
    digits = load_dataset("digits#value")
    images, side = np.asarray(digits.images), round(shifts**0.5)
    moves = [(i - side // 2, j - side // 2) for i in range(side) for j in range(side)]
    moved = np.concatenate([np.roll(images, move, axis=(1, 2)) for move in moves])
    np.savez(file, images=moved, scores=np.tile(np.asarray(digits.scores), len(moves)))
    return file


def play(name: str, rounds: int | None, out: Path) -> None:
    """Play a case to its end, or go on where it was left, and write down what rounds took."""
    import growth_agent

    from vitucb.experiment.playing import play

    case = CASES[name]
    settings = case.settings(out) | {
        "agent.name": "growth_agent:timed",
        "experiment": f"growth {name}",
        "num_rounds": rounds or case.rounds,
        "out": str(out / "runs"),
        "record_every": 1_000,
        "tensorboard": False,
    }
    stopwatch = Stopwatch(out / f"{name}.csv", growth_agent.PARTS.seconds)
    with stopwatch.file:
        play(override_keys(RunConfig(), settings), stopwatch.lap)


class Stopwatch:
    """Writes the CPU time of each round and of its parts, and memory, to a file.

    Attributes:
        file: Rows of `COLUMNS`; those that it has stay.
    """

    def __init__(
        self, path: Path, parts: dict[str, float], clock: Callable[[], float] = time.process_time
    ) -> None:
        """Go on with a file.

        Args:
            path: Of the file, made if there is none.
            parts: Seconds of each part so far, which others add to.
            clock: CPU time, seconds.
        """
        old = read_rounds(path) if path.is_file() else []
        self._known = int(old[-1][0]) if old else -1
        self._parts, self._clock = parts, clock
        self._before: tuple[float, dict[str, float]] | None = None
        self.file = path.open("a", newline="", buffering=1)
        self._rows = csv.writer(self.file)
        if not old:
            self._rows.writerow(COLUMNS)

    def lap(self, round: Round) -> None:
        """A round is over; the first after a start is not written, as it has the start in it."""
        now, parts = self._clock(), dict(self._parts)
        if self._before is not None and round.index > self._known:
            start, earlier = self._before
            times = [now - start, *(parts.get(p, 0.0) - earlier.get(p, 0.0) for p in PARTS)]
            cells = [f"{1e3 * seconds:.3f}" for seconds in times]
            self._rows.writerow([round.index, *cells, f"{resident_mib():.1f}"])
        self._before = (self._clock(), parts)


def read_rounds(path: Path) -> list[list[float]]:
    """Rows of `COLUMNS`, without a last one that was cut off."""
    with path.open(newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS)]
    return [list(map(float, row)) for row in rows[1:]]


def growth_rows(name: str, rounds: Sequence[Sequence[float]]) -> list[Row]:
    """A row for round 100, 1,000, .. as far as the case has come.

    Args:
        name: Of the case.
        rounds: Rows of `COLUMNS`, by round.
    """
    made: list[Row] = []
    first, first_learning, before = 0.0, 0.0, 0
    for until in (100, 1_000, 10_000, 100_000):
        if not rounds or rounds[-1][0] < until - 1:
            break
        window = [row for row in rounds if until - WINDOW <= row[0] < until]
        since = [row for row in rounds if before <= row[0] < until]
        ms, *parts = (statistics.median(row[i] for row in window) for i in range(1, 2 + len(PARTS)))
        learning = statistics.median(row[1] - row[2] for row in window)
        first, first_learning = first or ms, first_learning or learning
        made.append(
            {
                "case": name,
                "round": until,
                "ms": ms,
                "x round 100": ms / first,
                "x, features aside": learning / first_learning,
                **dict(zip(COLUMNS[2:-1], parts, strict=True)),
                "mean since the row above, ms": statistics.mean(row[1] for row in since),
                "longest, ms": max(row[1] for row in since),
                "MiB": max(row[-1] for row in since),
            }
        )
        before = until
    return made


def main(words: Sequence[str]) -> None:
    """Play the cases one after the other, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, help="of each case instead of its own number")
    parser.add_argument("--out", type=Path, default=Path("runs/growth"))
    args = parser.parse_args(words)
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for name in args.cases:
        # Memory that one case has taken must not be the next one's.
        process = get_context("spawn").Process(target=play, args=(name, args.rounds, args.out))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"case {name!r} ended with code {process.exitcode}; see above")
        rows += growth_rows(name, read_rounds(args.out / f"{name}.csv"))
        with (args.out / "growth.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else [])
            writer.writeheader()
            writer.writerows(rows)
    print(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
