"""Regret at the laws of published experiments, beside their numbers.

* `mnist`, `fashion`: one image a round, ten labels, reward 1 for the right one and 0 otherwise,
  T = 10,000; every image of the test set once. Published at this law on MNIST: NeuralUCB 1,065,
  NeuralTS 1,139, EE-Net 1,052.
* `digits-paper`: the ViT-UCB research prototype's own: arm i always shows digit i and pays
  N(i, 3^2); its published run 434. Blind agents can solve it.
* `digits-shuffled`: the same with the arms in a new order every round; blind agents cannot.

Writes runs that `vitucb report` reads, a table and a figure. A study that is stopped goes on where
it was.

    python scripts/study_bandits.py mnist --data FOLDER_WITH_mnist_test10k.npz --seeds 3
    python scripts/study_bandits.py digits-paper --agents vit-ucb ucb1 --seeds 1
    python scripts/study_bandits.py digits-shuffled --quick
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from study_tools import (
    Curves,
    base_config,
    draw_curves,
    interval,
    play,
    study_options,
    study_parser,
    write_table,
)

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


def table(curves: dict[str, Curves]) -> list[list[str]]:
    """One row per agent: regret at a tenth, at half and at the end with its 95 % interval."""
    rows = []
    for label, regrets in curves.items():
        horizon = regrets.shape[1]
        marks = [regrets[:, t - 1].mean() for t in (horizon // 10, horizon // 2, horizon)]
        each = " ".join(f"{value:.0f}" for value in regrets[:, -1])
        rows.append([label, *(f"{mark:.0f}" for mark in marks), interval(regrets[:, -1]), each])
    return rows


def main() -> None:
    """Run the study."""
    parser = study_parser(__doc__, rounds=10_000, seeds=3)
    parser.add_argument("law", choices=LAWS)
    parser.add_argument("--agents", nargs="+", help="all of the law if not given")
    options = study_options(parser)
    known = CONTEXT_AGENTS if options.law in CONTEXT_FILES else ARM_AGENTS
    labels = options.agents or list(known)
    if unknown := set(labels) - set(known):
        parser.error(f"{options.law} has no agents {sorted(unknown)}; choose of {list(known)}")
    base = base_config(options, f"bandits/{options.law}", environment(options.law, options.data))
    agents = {label: known[label] for label in labels}
    curves = play(base, agents, seeds=range(options.seeds), workers=options.workers)
    rounds = options.rounds
    header = ["agent", f"R({rounds // 10})", f"R({rounds // 2})", f"R({rounds})", "95 %", "seeds"]
    write_table(options.out / f"{options.law}.csv", [header, *table(curves)])
    if curves:
        draw_curves(curves, options.law, options.out / f"{options.law}.png")


if __name__ == "__main__":
    main()
