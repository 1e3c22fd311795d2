"""Regret under rewards that come late and rewards that drift, on the digits.

Delays: agents play with a mean delay of 0, 32, 128 and 256 rounds (geometric). Drift: halfway the
mean rewards change classes; the table splits regret into before and after. Seeds are paired.
Writes runs that `vitucb report` reads, two tables with 95 % intervals, and a figure. A study that
is stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from study_tools import (
    Curves,
    base_config,
    interval,
    play_each,
    study_options,
    study_parser,
    write_table,
)

DELAYS = (0, 32, 128, 256)
LATE: dict[str, dict[str, Any]] = {
    "vit-ucb": {},
    "kernel-ucb": {"name": "kernel-ucb"},
    "lin-ucb": {"name": "lin-ucb"},
    "ucb1": {"name": "ucb1"},
}
DISCOUNT: dict[str, Any] = {"training": {"discount": 0.99}}
FORGETTING: dict[str, dict[str, Any]] = {
    "vit-ucb": {},
    "vit-ucb, discount 0.99": DISCOUNT,
    "kernel-ucb": {"name": "kernel-ucb"},
    "kernel-ucb, discount 0.99": {"name": "kernel-ucb", **DISCOUNT},
    "lin-ucb": {"name": "lin-ucb"},
    "lin-ucb, discount 0.99": {"name": "lin-ucb", **DISCOUNT},
    "ucb1": {"name": "ucb1"},
}


def agent_name(label: str) -> str:
    """What comes before the setting in a label."""
    return label.partition(",")[0]


def halves(regrets: Curves) -> tuple[Curves, Curves]:
    """Regret (S,) of the first half and of the second half, for curves (S, T)."""
    half = regrets[:, regrets.shape[1] // 2 - 1]
    return half, regrets[:, -1] - half


def row(label: str, regrets: Curves) -> list[str]:
    """Both halves, all of it with its interval, and every seed."""
    first, second = halves(regrets)
    parts = [f"{part.mean():.0f}" for part in (first, second, regrets[:, -1])]
    each = " ".join(f"{value:.0f}" for value in regrets[:, -1])
    return [label, *parts, interval(regrets[:, -1]), each]


def draw(late: Mapping[str, Mapping[int, Curves]], drift: Mapping[str, Curves], path: Path) -> None:
    """Left: regret over the delay. Right: the curves through the drift."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for label, by_delay in late.items():
        ends = {delay: regrets[:, -1] for delay, regrets in by_delay.items()}
        places = np.arange(len(ends))
        (line,) = left.plot(places, [end.mean() for end in ends.values()], "o-", label=label)
        for place, end in zip(places, ends.values(), strict=True):
            left.plot([place] * len(end), end, ".", color=line.get_color(), alpha=0.4)
    left.set_xticks(range(len(DELAYS)), [str(delay) for delay in DELAYS])
    left.set(title="late rewards", xlabel="mean delay, rounds", ylabel="regret, every seed a dot")
    for label, regrets in drift.items():
        right.plot(regrets.mean(0), label=label)
    right.set(title="rewards change classes halfway", xlabel="round", ylabel="cumulative regret")
    for axis in (left, right):
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    """Run the study."""
    parser = study_parser(__doc__, rounds=600, seeds=10)
    parser.add_argument("--agents", nargs="+", default=list(LATE), choices=list(LATE))
    options = study_options(parser)
    seeds = range(options.seeds)
    header = ["agent", "first half", "second half", "all", "95 %", "seeds"]
    agents = {label: LATE[label] for label in options.agents}
    forgetting = {
        label: agent for label, agent in FORGETTING.items() if agent_name(label) in options.agents
    }
    plans = []
    for delay in DELAYS:
        env = {"delay": {"law": "geometric", "rounds": delay}} if delay else {}
        plans.append((base_config(options, f"feedback/delay-{delay}", env, experts=None), agents))
    drift = {"drift": {"kind": "abrupt", "at": options.rounds // 2}}
    plans.append((base_config(options, "feedback/drift", drift, experts=None), forgetting))
    *by_delay, drifted = play_each(plans, seeds=seeds, workers=options.workers)
    late = {
        label: {
            d: found[label] for d, found in zip(DELAYS, by_delay, strict=True) if label in found
        }
        for label in agents
    }
    rows = [
        row(f"{label}, delay {delay}", regrets)
        for label, of_label in late.items()
        for delay, regrets in of_label.items()
    ]
    write_table(options.out / "delay.csv", [header, *rows])
    write_table(options.out / "drift.csv", [header, *(row(k, v) for k, v in drifted.items())])
    draw(late, drifted, options.out / "feedback.png")


if __name__ == "__main__":
    main()
