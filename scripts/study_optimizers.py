"""Regret of ViT-UCB on the demo task with every optimizer, learning rates tuned on other seeds.

For each optimizer the learning rate with the least mean regret over the tuning seeds is played on
the test seeds. Runs share seeds, so that all optimizers face the same arms and rewards. Writes a
CSV table and prints it. Results appear one by one: a study that is stopped keeps what it has.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from vitucb.config import EnvConfig
from vitucb.experiment import make_agent, make_env
from vitucb.runner import run

ADAM_RATES, LARGE_RATES = (1e-5, 3e-5, 1e-4), (1e-3, 3e-3, 1e-2)
CASES: dict[str, tuple[str, dict[str, Any], tuple[float, ...]]] = {
    "adamw": ("adamw", {}, ADAM_RATES),
    "lora-rite": ("lora-rite", {}, ADAM_RATES),
    "lora-pro": ("lora-pro", {}, ADAM_RATES),
    "lora-plus": ("lora-plus", {}, (3e-6, 1e-5, 3e-5)),
    "scaled-adam": ("scaled-adam", {}, ADAM_RATES),
    "sgd": ("sgd", {}, LARGE_RATES),
    "scaled-gd": ("scaled-gd", {}, LARGE_RATES),
    "lora-pro, sgd": ("lora-pro", {"base": "sgd"}, LARGE_RATES),
    "lora-pro, full": ("lora-pro", {"moments": "full"}, ADAM_RATES),
    "lora-fa": ("lora-fa", {}, ADAM_RATES),
    "lamb": ("lamb", {}, (3e-3, 1e-2, 3e-2)),
    "rac-lora": ("rac-lora", {}, (3e-5, 1e-4, 3e-4)),
    "bernoulli-lora": ("bernoulli-lora", {}, LARGE_RATES),
    "cola": ("cola", {}, (3e-5, 1e-4, 3e-4)),
    "asymmetric-lora": ("asymmetric-lora", {}, ADAM_RATES),
    # Any torch class by its path; this one is of the package pytorch_optimizer.
    "Shampoo": ("pytorch_optimizer:Shampoo", {}, (3e-4, 3e-3, 3e-2)),
    "no training (lr 0)": ("sgd", {}, (0.0,)),
}


def regret(name: str, options: dict[str, Any], lr: float, seed: int, rounds: int) -> float:
    """Cumulative regret of one run; infinite if the optimizer broke down."""
    env = make_env(EnvConfig(), rounds)
    optimizer = {"name": name, "lr": lr, "options": options}
    agent = make_agent("vit-ucb", env, seed=seed, optimizer=optimizer)
    try:
        return sum(round.regret for round in run(env, agent, seed=seed))
    except RuntimeError as error:  # e.g. a library's Shampoo whose factorisation fails
        print(f"{name}, lr {lr:g}, seed {seed}: {error}")
        return math.inf


def study(
    label: str, rounds: int, tuning_rounds: int, tuning: list[int], test: list[int]
) -> list[str]:
    """One row: learning rate, mean and standard error of the regret on the test seeds."""
    name, options, rates = CASES[label]
    best = rates[0]
    if len(rates) > 1:
        tuned = {
            lr: statistics.fmean(regret(name, options, lr, seed, tuning_rounds) for seed in tuning)
            for lr in rates
        }
        best = min(tuned, key=lambda lr: tuned[lr])
    values = [regret(name, options, best, seed, rounds) for seed in test]
    error = (
        statistics.stdev(values) / len(values) ** 0.5 if math.isfinite(sum(values)) else math.inf
    )
    cells = [f"{value:.1f}" for value in values]
    return [label, f"{best:g}", f"{statistics.fmean(values):.1f}", f"{error:.1f}", " ".join(cells)]


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tuning-seeds", type=int, default=2)
    parser.add_argument("--tuning-rounds", type=int, help="as many as --rounds if not given")
    parser.add_argument("--out", type=Path, default=Path("study_optimizers.csv"))
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tuning_rounds = arguments.tuning_rounds or arguments.rounds
    tuning = list(range(1000, 1000 + arguments.tuning_seeds))
    test = list(range(arguments.seeds))
    header = ["optimizer", "lr", "mean regret", "standard error", "regret per seed"]
    with arguments.out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for label in arguments.only:
            started = time.perf_counter()
            row = study(label, arguments.rounds, tuning_rounds, tuning, test)
            writer.writerow(row)
            file.flush()
            minutes = (time.perf_counter() - started) / 60.0
            print("  ".join(row), f"({minutes:.1f} min)", flush=True)


if __name__ == "__main__":
    main()
