"""How far to explore, and what confidence widths are worth.

* `policies`: `vit-ucb` with an image per arm under several policies, and `kernel-ucb` with several
  multipliers of the width of its coarse scale, at rewards of 0 and 1 and at normal rewards with
  noise of three times the gaps. Slots shuffled, K = 10, digits.
* `cells`: the network alone (`agent.experts adapted`), features x covariance x radius at rewards
  of 0 and 1. The sketch has rank 64, so that it has something to lose in short runs; at its default
  rank it decides as `exact` does.

Calibration is that of the chosen arms, whose true means the environment tells: how often the mean
is within the bonus of the truth; bonus over error, both averaged; the multiple of the width that
would have covered 95 %; and the share of choices that were not greedy.

    python scripts/studies/study_exploration.py policies --seeds 10 --rounds 1000
    python scripts/studies/study_exploration.py cells --seeds 3
    python scripts/studies/study_exploration.py cells --quick
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from laws import LAWS as PLAYED
from study_tools import (
    Curves,
    base_config,
    column,
    draw_curves,
    interval,
    play,
    slug,
    study_options,
    study_parser,
    write_table,
)

from vitucb.config import RunConfig, override
from vitucb.statistics import bootstrap_ci, coverage, paired_difference

POLICIES: dict[str, dict[str, Any]] = {
    "vit-ucb": {},
    "vit-ucb, greedy": {"policy": {"name": "greedy"}},
    "vit-ucb, epsilon-greedy": {"policy": {"name": "epsilon-greedy"}},
    "vit-ucb, thompson": {"policy": {"name": "thompson"}},
    "vit-ucb, igw": {"policy": {"name": "igw"}},
    **{
        f"kernel-ucb, {alpha}": {"name": "kernel-ucb", "options": {"coarse_alpha": alpha}}
        for alpha in (0.5, 1.0, 2.0, 4.0)
    },
}
LAWS: dict[str, dict[str, Any]] = {
    "digits": {"dataset": "digits", "num_arms": 10},
    "digits-normal": dict(PLAYED["digits-normal"].env),
}
FEATURES = ("lora-gradient", "last-layer")
COVARIANCES: dict[str, dict[str, Any]] = {
    "exact": {"name": "exact"},
    "low-rank-64": {"name": "low-rank", "rank": 64},
    "diagonal": {"name": "diagonal"},
}
RADII: dict[str, dict[str, Any]] = {
    "auto-0.3": {"alpha": 0.3},
    "auto-1": {"alpha": 1.0},
    "oful": {"radius": "oful", "alpha": 1.0},
}
CELLS: dict[str, dict[str, Any]] = {
    f"{features}/{covariance}/{radius}": {
        "features": features,
        "covariance": COVARIANCES[covariance],
        "policy": RADII[radius],
    }
    for features in FEATURES
    for covariance in COVARIANCES
    for radius in RADII
}
# File of the table, its agents, its laws.
TABLES: dict[str, tuple[str, dict[str, dict[str, Any]], Sequence[str]]] = {
    "policies": ("policies", POLICIES, tuple(LAWS)),
    "cells": ("exploration", CELLS, ("digits",)),
}
CALIBRATION = ("coverage", "bonus / error", "needed", "not greedy")


def calibration(config: RunConfig) -> dict[str, float]:
    """What the widths of a finished run were worth, by the names of `CALIBRATION`.

    Shares are in [0, 1]; `needed` is the 0.95 quantile of |error| / width.
    """
    names = ("mean", "width", "bonus", "expected_reward", "action", "greedy_action")
    mean, width, bonus, truth, action, greedy = (column(config, "rounds.csv", n) for n in names)
    error = np.abs(mean - truth)
    return {
        "coverage": coverage(truth, mean - bonus, mean + bonus),
        "bonus / error": float(bonus.mean() / error.mean()),
        "needed": float(np.quantile(error / width, 0.95)),
        "not greedy": float((action != greedy).mean()),
    }


def calibrations(
    base: RunConfig, curves: Mapping[str, Curves], seeds: Sequence[int]
) -> dict[str, dict[str, Curves]]:
    """Every figure of `CALIBRATION`, (S,), by label of the agents in `curves`."""
    found: dict[str, dict[str, Curves]] = {}
    for label in curves:
        configs = [override(base, {"agent": {"label": slug(label)}, "seed": s}) for s in seeds]
        runs = [calibration(config) for config in configs]
        found[label] = {name: np.array([run[name] for run in runs]) for name in CALIBRATION}
    return found


def play_by_seed(
    base: RunConfig,
    agents: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    workers: int | None,
) -> dict[str, Curves]:
    """As `play`, seeds outermost: a study that is stopped has whole seeds."""
    for seed in seeds:
        play(base, agents, seeds=[seed], workers=workers)
    return play(base, agents, seeds=seeds, workers=workers)


def rows(
    curves: Mapping[str, Curves], known: Mapping[str, Mapping[str, Curves]], reference: str
) -> list[list[str]]:
    """One row per agent: regret, its difference to the reference's, calibration, seeds."""
    table = []
    for label, regrets in curves.items():
        last = regrets[:, -1]
        gap = "-"
        if label != reference and reference in curves and len(last) > 1:
            paired = paired_difference(last, curves[reference][:, -1])
            low, high = paired.student_low, paired.student_high
            gap = f"{paired.difference.value:+.1f} [{low:.1f}, {high:.1f}]"
        shares = [f"{known[label][name].mean():.2f}" for name in CALIBRATION]
        each = " ".join(f"{value:.0f}" for value in last)
        table.append([label, f"{last.mean():.1f}", interval(last, 1), gap, *shares, each])
    return table


def header(rounds: int) -> list[str]:
    """Names of the columns of `rows`."""
    return ["agent", f"R({rounds})", "95 %", "paired difference", *CALIBRATION, "seeds"]


def draw_cells(
    curves: Mapping[str, Curves], known: Mapping[str, Mapping[str, Curves]], path: Path
) -> None:
    """Regret, coverage and share of choices that were not greedy; whiskers are 95 % intervals."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    groups = list(dict.fromkeys(label.rpartition("/")[0] for label in curves))
    figure, axes = plt.subplots(1, 3, figsize=(10, 0.45 * len(groups) + 1.6), sharey=True)
    for k, radius in enumerate(RADII):
        for axis, name in zip(axes, ("regret", "coverage", "not greedy"), strict=True):
            for y, group in enumerate(groups):
                label = f"{group}/{radius}"
                if label not in curves:
                    continue
                values = curves[label][:, -1] if name == "regret" else known[label][name]
                low, high = bootstrap_ci(values, seed=0) if len(values) > 1 else (values, values)
                at = y + 0.22 * (k - 1)
                axis.plot([float(np.squeeze(e)) for e in (low, high)], [at, at], color=f"C{k}")
                axis.plot(values.mean(), at, "o", color=f"C{k}", label=None if y else radius)
            axis.set_xlabel(name)
            axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(groups)), groups)
    axes[0].invert_yaxis()
    axes[2].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Run the study."""
    parser = study_parser(__doc__, rounds=250, seeds=3)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--laws", nargs="+", choices=list(LAWS), help="all of the table by default")
    parser.add_argument("--blocks", nargs="+", type=int, help="adapted blocks; all by default")
    parser.add_argument("--agents", nargs="+", help="all of the table if not given")
    options = study_options(parser)
    name, known, laws = TABLES[options.table]
    labels = options.agents or list(known)
    if unknown := set(labels) - set(known):
        parser.error(f"{options.table} has no agents {sorted(unknown)}; choose of {list(known)}")
    agents = {label: known[label] for label in labels}
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    table = [["law", *header(options.rounds)]]
    for law in options.laws or laws:
        experts = ("adapted",) if options.table == "cells" else None
        experiment = f"exploration/{options.table}-{law}"
        base = base_config(options, experiment, LAWS[law], experts)
        base = override(base, {"agent": {"lora": {"blocks": options.blocks}}})
        curves = play_by_seed(base, agents, seeds, options.workers)
        calibrated = calibrations(base, curves, seeds)
        table += [[law, *row] for row in rows(curves, calibrated, labels[0])]
        if curves and options.table == "cells":
            draw_cells(curves, calibrated, options.out / f"{name}.png")
        elif curves:
            draw_curves(curves, law, options.out / f"{name}-{law}.png")
    write_table(options.out / f"{name}.csv", table)


if __name__ == "__main__":
    main()
