"""Regret of `vit-ucb` with each LoRA optimizer at its own rate: ranks over laws and seeds.

One image with its labels; of the four experts `adapted` is the one that an optimizer trains.
`no training` is the mixture without it, and two rows are of other adapters under `adamw`. Rates
are those of `vitucb/optim/table.py`, found by `study_rates.py` on other images and seeds. All meet
the same images and rewards on a seed, so that rows are paired; ranks are those within a law and
seed.

    python scripts/studies/study_optimizers.py
    python scripts/studies/study_optimizers.py --data DATA --laws flowers fashion mnist --seeds 10
    python scripts/studies/study_optimizers.py --quick
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from laws import LAWS
from scipy.stats import rankdata
from study_tools import (
    Curves,
    base_config,
    interval,
    play_each,
    study_options,
    study_parser,
    write_table,
)

from vitucb.optim import ENTRIES
from vitucb.statistics import holm_correction, paired_difference, student_interval

UNTRAINED = ("linear", "softmax", "kernel-softmax")
CONTROL, REFERENCE = "no training", "adamw"
ADAPTERS = {"rslora": {"use_rslora": True}, "dora": {"use_dora": True}}


def agents_of(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Label -> the `agent` section."""
    trained: dict[str, dict[str, Any]] = {
        name: {"lora": ADAPTERS[name]} if name in ADAPTERS else {"optimizer": {"name": name}}
        for name in names
    }
    return {**trained, CONTROL: {"experts": UNTRAINED}}


def regrets_of(options: argparse.Namespace) -> dict[str, dict[str, Curves]]:
    """Regret (S,) at the horizon by law and label, of those whose seeds all finished."""
    agents = agents_of(options.only)
    plans = [
        (
            base_config(
                options,
                f"optimizers/{name}",
                LAWS[name].environment(options.data, Path(options.runs)),
                experts=None,
            ),
            agents,
        )
        for name in options.laws
    ]
    curves = play_each(plans, seeds=range(options.seeds), workers=options.workers)
    return {
        name: {label: regrets[:, -1] for label, regrets in found.items()}
        for name, found in zip(options.laws, curves, strict=True)
    }


def table_by_law(ends: Mapping[str, Mapping[str, Curves]]) -> list[list[str]]:
    """One row for a law and optimizer: regret, and its paired difference from `adamw`."""
    rows = [["law", "optimizer", "lr", "regret", "95 %", "minus adamw", "95 % of it", "seeds"]]
    for law, found in ends.items():
        for label, regrets in found.items():
            optimizer = label if label in ENTRIES else REFERENCE
            lr = "-" if label == CONTROL else f"{ENTRIES[optimizer].lr:g}"
            cells, each = ["-", "-"], " ".join(f"{end:.0f}" for end in regrets)
            if label != REFERENCE and REFERENCE in found:
                gap = regrets - found[REFERENCE]
                cells = [f"{gap.mean():+.1f}", _student(gap)]
            mean = f"{regrets.mean():.1f}"
            rows.append([law, label, lr, mean, _student(regrets), *cells, each])
    return rows


def table_of_ranks(ends: Mapping[str, Mapping[str, Curves]]) -> list[list[str]]:
    """One row for an optimizer over all pairs of law and seed; 1 is the least regret.

    p is that of Wilcoxon's signed-rank test on log regret against `adamw`, with Holm's correction.
    """
    labels = list(next(iter(ends.values())))
    pairs = np.concatenate([np.stack([law[x] for x in labels]) for law in ends.values()], axis=1)
    ranks = rankdata(pairs, axis=0)
    logs = np.log(pairs / pairs[labels.index(REFERENCE)])
    gaps = {
        x: paired_difference(log, np.zeros_like(log))
        for x, log in zip(labels, logs, strict=True)
        if x != REFERENCE
    }
    p_values = holm_correction([gap.wilcoxon_p for gap in gaps.values()])
    p_of = dict(zip(gaps, p_values.tolist(), strict=True))
    rows = [["optimizer", "mean rank", "95 %", "against adamw %", "lower : higher", "p, Holm"]]
    for k in ranks.mean(axis=1).argsort(kind="stable"):
        label, cells = labels[k], ["-", "-", "-"]
        if label in gaps:
            score = f"{gaps[label].num_lower} : {gaps[label].num_higher}"
            cells = [percent(logs[k]), score, f"{p_of[label]:.2g}"]
        rows.append([label, f"{ranks[k].mean():.2f}", interval(ranks[k], 2), *cells])
    return rows


def percent(logs: Curves) -> str:
    """Mean of log ratios as a change in per cent, with Student's 95 % interval."""
    mean = f"{100 * np.expm1(logs.mean()):+.0f}"
    if len(logs) < 2:
        return mean
    low, high = (100 * np.expm1(end) for end in student_interval(logs))
    return f"{mean} [{low:+.0f}, {high:+.0f}]"


def _student(values: Curves) -> str:
    if len(values) < 2:
        return "-"
    low, high = student_interval(values)
    return f"[{low:.1f}, {high:.1f}]"


def draw(ends: Mapping[str, Mapping[str, Curves]], path: Path) -> None:
    """Regret minus that of `adamw`, one panel for a law: every seed, and Student's interval."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, len(ends), figsize=(3.5 * len(ends) + 1.5, 4), sharey=True, squeeze=False
    )
    for axis, (law, found) in zip(axes[0], ends.items(), strict=True):
        for place, regrets in enumerate(found.values()):
            gap = regrets - found[REFERENCE]
            axis.plot(gap, np.full(len(gap), place), ".", color="0.6", ms=5)
            if len(gap) > 1:
                axis.hlines(place, *student_interval(gap))
            axis.plot(gap.mean(), place, "o", color="C0", ms=5)
        axis.axvline(0.0, color="k", lw=0.8)
        axis.set(title=law, xlabel=f"regret minus that of {REFERENCE}")
        axis.grid(alpha=0.3)
    axes[0, 0].set_yticks(range(len(found)), list(found))
    axes[0, 0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    """Run the study."""
    parser = study_parser(__doc__, rounds=1_500, seeds=10)
    shared = [name for name, law in LAWS.items() if law.is_shared]
    parser.add_argument("--laws", nargs="+", choices=shared, default=["digits-labels"])
    known = [*ENTRIES, *ADAPTERS]
    parser.add_argument("--only", nargs="+", choices=known, default=known)
    options = study_options(parser)
    if REFERENCE not in options.only:
        parser.error(f"--only needs {REFERENCE}, which the others are compared with")
    ends = regrets_of(options)
    write_table(options.out / "optimizers_by_law.csv", table_by_law(ends))
    write_table(options.out / "optimizers.csv", table_of_ranks(ends))
    draw(ends, options.out / "optimizers.png")


if __name__ == "__main__":
    main()
