"""Regret under rewards that come late and rewards that drift, on the digits.

Delays: agents play with a mean delay of 0, 32, 128 and 256 rounds (geometric). Drift: halfway the
mean rewards change classes; the table splits regret into before and after. Seeds are paired.
Writes runs that `vitucb report` reads, and prints a table of mean regret with 95 % intervals.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

from vitucb.config import RunConfig, override
from vitucb.recorder import run_folder
from vitucb.statistics import bootstrap_ci
from vitucb.sweep import run_jobs

DELAYS = (0, 32, 128, 256)
FORGETTING: dict[str, dict[str, Any]] = {
    "vit-ucb": {},
    "vit-ucb, reset": {"training": {"reset_on_drift": True}},
    "vit-ucb, window 150": {"training": {"replay": "window", "replay_capacity": 150}},
    "vit-ucb, discount 0.99": {"training": {"discount": 0.99}},
    "lin-ucb": {"name": "lin-ucb"},
    "lin-ucb, discount 0.99": {"name": "lin-ucb", "training": {"discount": 0.99}},
    "ucb1": {"name": "ucb1"},
    "random": {"name": "random"},
}


def late(base: RunConfig, delay: int, agent: str) -> RunConfig:
    """A run with rewards that come `delay` rounds late on average."""
    env = {"delay": {"law": "geometric", "rounds": delay}} if delay else {}
    values = {"env": env, "agent": {"name": agent}, "experiment": f"feedback/delay-{delay}"}
    return override(base, values)


def drifting(base: RunConfig, label: str) -> RunConfig:
    """A run whose rewards change classes halfway."""
    drift = {"kind": "abrupt", "at": base.num_rounds // 2}
    agent = FORGETTING[label] | {"label": label.replace(", ", "-").replace(" ", "-")}
    values = {"env": {"drift": drift}, "agent": agent, "experiment": "feedback/drift"}
    return override(base, values)


def regrets(config: RunConfig) -> tuple[float, float]:
    """Regret of the first half and of the second half of a finished run."""
    with (run_folder(config) / "rounds.csv").open(newline="") as file:
        curve = [float(row["cumulative_regret"]) for row in csv.DictReader(file)]
    half = curve[len(curve) // 2 - 1]
    return half, curve[-1] - half


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--agents", nargs="+", default=["vit-ucb", "lin-ucb", "ucb1"])
    parser.add_argument("--out", default="runs")
    arguments = parser.parse_args()
    base = override(
        RunConfig(), {"num_rounds": arguments.rounds, "out": arguments.out, "tensorboard": False}
    )
    cells = {
        ("delay", f"{agent}, delay {d}"): late(base, d, agent)
        for d in DELAYS
        for agent in arguments.agents
    }
    cells |= {("drift", label): drifting(base, label) for label in FORGETTING}
    seeded = {
        cell: [override(config, {"seed": seed}) for seed in range(arguments.seeds)]
        for cell, config in cells.items()
    }
    errors = run_jobs([config for configs in seeded.values() for config in configs])
    for folder, message in errors.items():
        print(f"{folder}: {message}")
    for (_, label), configs in seeded.items():
        if any(not (run_folder(c) / "summary.json").is_file() for c in configs):
            continue
        halves = [regrets(config) for config in configs]
        totals = [first + second for first, second in halves]
        low, high = (float(end) for end in bootstrap_ci(totals, seed=0))
        first, second = (sum(h[i] for h in halves) / len(halves) for i in (0, 1))
        total = f"{first + second:7.1f} [{low:.0f}, {high:.0f}]"
        print(f"{label:28s} {first:7.1f} + {second:7.1f} = {total}")
    print(Path(arguments.out) / "feedback")


if __name__ == "__main__":
    main()
