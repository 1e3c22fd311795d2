"""Regret at the laws of published experiments, beside agents that never look at an image.

One image a round, K labels, reward 1 for the right one and 0 otherwise, every image once:

* `mnist`, `fashion`, `cifar10`: ten labels, the 10,000 images of the test set. Published at this
  law on MNIST: NeuralUCB 1,065, NeuralTS 1,139, EE-Net 1,052.
* `flowers`: five labels, 4,064 photographs.

The three experiments of the ViT-UCB research prototype:

* `digits-paper` (its first): arm i always shows digit i and pays N(i, 3^2); its published run 434.
  `digits-normal`: the same with the arms in a new order every round.
* `rated-2` (its second): arm i shows a random picture of the i-th third by rating and pays
  N(5.5, 1), N(6.5, 1) or N(7.4, 1); its published run 6,578.
* `silhouettes` (its third): three random rated pictures, each pays N(its rating, 1); its published
  run 5,157. `emoji`: the same on another rated set, noise as large beside its ratings.

The prototype's rated pictures are not to be had; silhouettes with ratings of their valence stand in
for them. Blind agents can solve the laws with fixed slots, `digits-paper` and `rated-2`.

Runs of `study_experts.py` at the same law are taken as they are. Writes runs that `vitucb report`
reads, and a table and a figure of all seeds that are finished. A study that is stopped goes on
where it was.

    python scripts/studies/study_bandits.py mnist --data FOLDER_WITH_mnist_test10k.npz
    python scripts/studies/study_bandits.py digits-paper --agents vit-ucb ucb1 --seeds 1
    python scripts/studies/study_bandits.py digits-normal --quick
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from laws import LAWS, Law
from study_tools import (
    Curves,
    base_config,
    data_file,
    draw_curves,
    finished,
    interval,
    play,
    study_options,
    study_parser,
    write_table,
)

LABELS = ("mnist", "fashion", "cifar10", "flowers")
PROTOTYPE = ("digits-paper", "digits-normal", "silhouettes", "emoji")
THIRDS = "rated-2"
AGENTS = ("vit-ucb", "lin-ucb", "ucb1", "gaussian-ts", "random")
RATED_FILE, RATING = "bass_affect_safe_128px.npz", "val_mean_us"
MEANS = (5.5, 6.5, 7.4)


def law_of(name: str, data: Path, runs: Path) -> tuple[Law, dict[str, Any]]:
    """The law, and its `env` section; what that needs and `data` does not have goes to `runs`."""
    if name != THIRDS:
        return LAWS[name], LAWS[name].environment(data, runs)
    dataset = str(write_thirds(data_file(data, RATED_FILE), runs / f"{THIRDS}.npz"))
    slots = {"reward": "score", "num_arms": 3, "options": {"shuffle_slots": False}}
    env = {"dataset": dataset, "noise_std": 1.0, **slots}
    return Law(env, LAWS["silhouettes"].rounds), env


def write_thirds(rated: Path, path: Path) -> Path:
    """The rated set as three classes, its thirds by rating; images are worth `MEANS` of theirs."""
    with np.load(rated) as file:
        images, ratings = file["images"], file["scores"][:, list(file["score_names"]).index(RATING)]
    ranks = np.argsort(np.argsort(ratings, kind="stable"))
    labels = ranks * len(MEANS) // len(ranks)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, images=images, labels=labels, scores=np.array(MEANS, np.float32)[labels])
    return path


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
    parser = study_parser(__doc__, rounds=0, seeds=0)
    parser.add_argument("law", choices=(*LABELS, *PROTOTYPE, THIRDS))
    parser.add_argument("--agents", nargs="+", choices=AGENTS, default=list(AGENTS))
    options = study_options(parser)
    law, env = law_of(options.law, options.data, Path(options.runs))
    options.rounds = rounds = options.rounds or law.rounds
    seeds = range(options.seeds or law.seeds)
    base = base_config(options, f"experts/{options.law}", env, experts=None)
    asked = {name: {"name": name} for name in options.agents}
    play(base, asked, seeds=seeds, workers=options.workers)
    ends = finished(base, {name: {"name": name} for name in AGENTS}, seeds=seeds)
    curves = {label: np.stack([*by_seed.values()]) for label, by_seed in ends.items()}
    header = ["agent", f"R({rounds // 10})", f"R({rounds // 2})", f"R({rounds})", "95 %", "seeds"]
    write_table(options.out / f"{options.law}.csv", [header, *table(curves)])
    draw_curves(curves, options.law, options.out / f"{options.law}.png")


if __name__ == "__main__":
    main()
