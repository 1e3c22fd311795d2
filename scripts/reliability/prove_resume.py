"""Kill runs with SIGKILL at random moments, resume them, and compare every byte.

    python scripts/reliability/prove_resume.py [--kills 20] [--rounds 120] [--only delay]

Every trial starts a run in a child process and kills it when it has reached a round drawn uniformly
from all rounds, plus a random fraction of a round or of a checkpoint (twice in every third trial);
then the same config is played again and the result is compared with an uninterrupted run.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from vitucb.config import RunConfig, override
from vitucb.experiment.playing import play
from vitucb.experiment.run_folder import is_finished, run_folder

SAME_BYTES = ("rounds.csv", "metrics.csv", "summary.json", "gallery.npz")
_SMALL = {"experts": ["adapted"], "training": {"batch_size": 8}, "lora": {"rank": 2}}
CONFIGS: dict[str, dict[str, Any]] = {
    "delay": {
        "agent": {"name": "vit-ucb", **_SMALL},
        "env": {
            "num_arms": 4,
            "delay": {"law": "heavy-tailed", "rounds": 8, "loss_probability": 0.05},
        },
    },
    "drift": {
        "agent": {"name": "lin-ucb"},
        "env": {"num_arms": 4, "drift": {"kind": "gradual"}, "arm_subset": {"min_arms": 2}},
    },
    "sketch": {
        "agent": {
            "name": "vit-ucb",
            "covariance": {"name": "low-rank", "rank": 32},
            "optimizer": {"name": "lora-rite"},
            **_SMALL,
        },
        "env": {"num_arms": 4},
    },
}


def main() -> None:
    """Run the trials and print a table; exit code 1 if any byte differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="trials per config")
    parser.add_argument("--rounds", type=int, default=120, help="horizon")
    parser.add_argument("--only", choices=sorted(CONFIGS), help="one config instead of all")
    arguments = parser.parse_args()
    names = [arguments.only] if arguments.only else list(CONFIGS)
    print("| config | trials | killed in play | rounds at the kill | byte-equal |")
    print("|---|---|---|---|---|")
    all_equal = True
    for name in names:
        with tempfile.TemporaryDirectory() as out:
            base = override(RunConfig(), CONFIGS[name])
            base = dataclasses.replace(
                base, out=out, num_rounds=arguments.rounds, checkpoint_every=10
            )
            all_equal &= prove(name, base, arguments.kills)
    sys.exit(0 if all_equal else 1)


def prove(name: str, base: RunConfig, trials: int) -> bool:
    """Print one row of the table; whether every trial ended with the same bytes."""
    rng = np.random.default_rng(len(name))
    wanted = contents(play(base).folder)
    started = time.monotonic()  # once more, with everything loaded
    play(dataclasses.replace(base, experiment="timed"))
    per_round = (time.monotonic() - started) / base.num_rounds
    reached, equal, killed = [], 0, 0
    for trial in range(trials):
        config = dataclasses.replace(base, experiment=f"trial-{trial}")
        for _ in range(2 if trial % 3 == 2 else 1):
            target, delay = rng.integers(base.num_rounds + 1), rng.uniform(0, 3 * per_round)
            kill_after(start(config), run_folder(config) / "rounds.csv", int(target), delay)
            killed += not is_finished(run_folder(config))
            reached.append(lines(run_folder(config) / "rounds.csv"))
        play(config)
        equal += contents(run_folder(config)) == wanted
    spread = f"{min(reached)}-{max(reached)}"
    print(f"| {name} | {trials} | {killed} | {spread} | {equal} |", flush=True)
    return equal == trials


def start(config: RunConfig) -> int:
    """Play `config` in a forked child, whose libraries are loaded already; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        play(config)
        code = 0
    finally:  # an error must not run on in the parent's code, which would delete its folder
        os._exit(code)


def kill_after(child: int, table: Path, rounds: int, delay: float) -> None:
    """Kill the child `delay` seconds after `rounds` rounds, unless it has ended by then."""
    while lines(table) < rounds:
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            return
        time.sleep(0.002)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def contents(folder: Path) -> dict[str, bytes]:
    """The files whose bytes must agree."""
    return {name: (folder / name).read_bytes() for name in SAME_BYTES}


def lines(path: Path) -> int:
    """Rounds recorded so far."""
    return max(0, path.read_bytes().count(b"\n") - 1) if path.is_file() else 0


if __name__ == "__main__":
    main()
