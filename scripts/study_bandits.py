"""Regret at the laws of published experiments, beside their numbers.

* `mnist`, `fashion`: one image a round, ten labels, reward 1 for the right one and 0 otherwise,
  T = 10,000; every image of the test set once. Published at this law on MNIST: NeuralUCB 1,065,
  NeuralTS 1,139, EE-Net 1,052.
* `digits-paper`: the ViT-UCB research prototype's own: arm i always shows digit i and pays
  N(i, 3^2); its published run 434. Blind agents can solve it.
* `digits-shuffled`: the same with the arms in a new order every round; blind agents cannot.

Writes runs that `vitucb report` reads, and next to them a table and a figure. A study that is
stopped goes on where it was.

    python scripts/study_bandits.py mnist --data FOLDER_WITH_mnist_test10k.npz --seeds 3
    python scripts/study_bandits.py digits-paper --agents vit-ucb ucb1 --seeds 1
    python scripts/study_bandits.py digits-shuffled --quick
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from vitucb.config import RunConfig, override
from vitucb.recorder import run_folder
from vitucb.statistics import bootstrap_ci
from vitucb.sweep import run_jobs

CONTEXT_FILES = {"mnist": "mnist_test10k.npz", "fashion": "fashion_mnist_test10k.npz"}
CONTEXT_AGENTS: dict[str, dict[str, Any]] = {
    # Labels share no parameter of a bonus: the last layer tells them apart at a tenth of the cost.
    "vit-ucb": {"features": "last-layer", "optimizer": {"lr": 1e-4}},
    "vit-ucb, lora-gradient": {"optimizer": {"lr": 1e-4}},
    "neural-ucb": {"name": "neural-ucb"},
    "lin-ucb": {"name": "lin-ucb"},
    "random": {"name": "random"},
}
ARM_AGENTS: dict[str, dict[str, Any]] = {
    "vit-ucb": {},
    # The default was chosen for rewards of 0 and 1; noise three times the gaps asks for more.
    "vit-ucb, alpha 1": {"policy": {"alpha": 1.0}},
    "lin-ucb": {"name": "lin-ucb"},
    # The numbers of the dense p x p inverse in less memory and time.
    "prototype": {
        "name": "prototype",
        "options": {"covariance": "exact", "gradients": "batched"},
    },
    "ucb1": {"name": "ucb1"},
    "gaussian-ts": {"name": "gaussian-ts"},
    "random": {"name": "random"},
}
SHUFFLED = {"reward": "gaussian", "num_arms": 10, "noise_std": 3.0}
LAWS = (*CONTEXT_FILES, "digits-paper", "digits-shuffled")


def environment(law: str, data: Path) -> dict[str, Any]:
    """The `env` section of a law."""
    if law == "digits-paper":
        return {"id": "vitucb/DigitsPaper-v0"}
    if law == "digits-shuffled":
        return {"dataset": "digits", **SHUFFLED}
    options = {"with_replacement": False}
    dataset = str(data / CONTEXT_FILES[law])
    return {"id": "vitucb/ImageContext-v0", "dataset": dataset, "options": options}


def curve(config: RunConfig) -> NDArray[np.float64]:
    """Cumulative regret (T,) of a finished run."""
    with (run_folder(config) / "rounds.csv").open(newline="") as file:
        return np.array([float(row["cumulative_regret"]) for row in csv.DictReader(file)])


def table(curves: dict[str, NDArray[np.float64]]) -> list[list[str]]:
    """One row per agent: regret at a tenth, at half and at the end with its 95 % interval."""
    rows = []
    for label, regrets in curves.items():
        horizon = regrets.shape[1]
        marks = [regrets[:, t - 1].mean() for t in (horizon // 10, horizon // 2, horizon)]
        interval = "-"
        if len(regrets) > 1:
            low, high = (float(end) for end in bootstrap_ci(list(regrets[:, -1]), seed=0))
            interval = f"[{low:.0f}, {high:.0f}]"
        each = " ".join(f"{value:.0f}" for value in regrets[:, -1])
        rows.append([label, *(f"{mark:.0f}" for mark in marks), interval, each])
    return rows


def draw(curves: dict[str, NDArray[np.float64]], title: str, path: Path) -> None:
    """Mean cumulative regret, and the range over seeds."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6.5, 4))
    for label, regrets in curves.items():
        rounds = np.arange(1, regrets.shape[1] + 1)
        (line,) = axis.plot(rounds, regrets.mean(0), label=label)
        if len(regrets) > 1:
            low, high = regrets.min(0), regrets.max(0)
            axis.fill_between(rounds, low, high, alpha=0.2, color=line.get_color())
    axis.set(title=title, xlabel="round", ylabel="cumulative regret", yscale="symlog")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("law", choices=LAWS)
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--agents", nargs="+", help="all of the law if not given")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the .npz files")
    parser.add_argument("--workers", type=int, help="runs at a time; what fits if not given")
    parser.add_argument("--out", default="runs")
    parser.add_argument("--quick", action="store_true", help="30 rounds of one seed")
    arguments = parser.parse_args()
    rounds, seeds = (30, 1) if arguments.quick else (arguments.rounds, arguments.seeds)
    known = CONTEXT_AGENTS if arguments.law in CONTEXT_FILES else ARM_AGENTS
    labels = arguments.agents or list(known)
    if unknown := set(labels) - set(known):
        parser.error(f"{arguments.law} has no agents {sorted(unknown)}; choose of {list(known)}")
    base = override(
        RunConfig(),
        {
            "experiment": f"bandits/{arguments.law}",
            "env": environment(arguments.law, arguments.data),
            "num_rounds": rounds,
            "out": arguments.out,
            "tensorboard": False,
        },
    )
    configs = {
        label: [
            override(
                base,
                {
                    "agent": {**known[label], "label": label.replace(", ", "-").replace(" ", "-")},
                    "seed": s,
                },
            )
            for s in range(seeds)
        ]
        for label in labels
    }
    jobs = [config for group in configs.values() for config in group]
    for folder, message in run_jobs(jobs, workers=arguments.workers).items():
        print(f"{folder}: {message}")
    finished = {
        label: np.stack([curve(config) for config in group])
        for label, group in configs.items()
        if all((run_folder(config) / "summary.json").is_file() for config in group)
    }
    folder = Path(arguments.out) / "bandits" / arguments.law
    header = ["agent", f"R({rounds // 10})", f"R({rounds // 2})", f"R({rounds})", "95 %", "seeds"]
    rows = [header, *table(finished)]
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    for row in rows:
        print(f"{row[0]:24s}" + "".join(f"{cell:>12s}" for cell in row[1:-1]) + f"   {row[-1]}")
    if finished:
        draw(finished, f"{arguments.law}, {seeds} seeds", folder / "curves.png")
    print(folder)


if __name__ == "__main__":
    main()
