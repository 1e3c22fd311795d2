"""Regret at the laws of published experiments, beside their numbers.

One image a round, K labels, reward 1 for the right one and 0 otherwise, every image once:

* `mnist`, `fashion`, `cifar10`: ten labels, the 10,000 images of the test set. Published at this
  law on MNIST: NeuralUCB 1,065, NeuralTS 1,139, EE-Net 1,052.
* `flowers`: five labels, 4,064 photographs.

The three experiments of the ViT-UCB research prototype:

* `digits-paper` (its first): arm i always shows digit i and pays N(i, 3^2); its published run 434.
* `rated-2` (its second): arm i shows a random picture of the i-th third by rating and pays
  N(5.5, 1), N(6.5, 1) or N(7.4, 1); its published run 6,578.
* `rated-3` (its third): three random rated pictures, each pays N(its rating, 1); its published run
  5,157. `rated-3-emoji`: the same on another rated set, noise as large beside its ratings.

The prototype's rated pictures are not to be had; silhouettes with ratings of their valence stand in
for them. Blind agents can solve the laws with fixed slots, the first two; not `digits-shuffled`,
the first with its arms in a new order every round.

Writes runs that `vitucb report` reads, and a table and a figure of all seeds that are finished. A
study that is stopped goes on where it was.

    python scripts/studies/study_bandits.py mnist --data FOLDER_WITH_mnist_test10k.npz --seeds 3
    python scripts/studies/study_bandits.py digits-paper --agents adapted ucb1 --seeds 1
    python scripts/studies/study_bandits.py digits-shuffled --quick
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
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

CONTEXT_FILES = {
    "mnist": "mnist_test10k.npz",
    "fashion": "fashion_mnist_test10k.npz",
    "cifar10": "cifar10_test10k_jpeg.npz",
    "flowers": "flowers5_112px_jpeg.npz",
}
MOST_ROUNDS = {"flowers": 4_064}  # so many images: none is shown twice
BLIND_AGENTS: dict[str, dict[str, Any]] = {
    "ucb1": {"name": "ucb1"},
    "gaussian-ts": {"name": "gaussian-ts"},
    "random": {"name": "random"},
}
CONTEXT_AGENTS: dict[str, dict[str, Any]] = {
    # Labels share no parameter of a bonus: the last layer tells them apart at a tenth of the cost.
    "adapted": {"features": "last-layer", "optimizer": {"lr": 1e-4}},
    "adapted, lora-gradient": {"optimizer": {"lr": 1e-4}},
    "neural-ucb": {"name": "neural-ucb"},
    "lin-ucb": {"name": "lin-ucb"},
    **BLIND_AGENTS,
}
ARM_AGENTS: dict[str, dict[str, Any]] = {
    "adapted": {},
    "adapted, frozen": {"optimizer": {"name": "sgd", "lr": 0.0}},
    # The default was chosen for rewards of 0 and 1; noise three times the gaps asks for more.
    "adapted, alpha 1": {"policy": {"alpha": 1.0}},
    "lin-ucb": {"name": "lin-ucb"},
    # The numbers of the dense p x p inverse in less memory and time.
    "prototype": {
        "name": "prototype",
        "options": {"covariance": "exact", "gradients": "batched"},
    },
    **BLIND_AGENTS,
}
SHUFFLED = {"reward": "gaussian", "num_arms": 10, "noise_std": 3.0}
RATED_FILE, RATING = "bass_affect_safe_128px.npz", "val_mean_us"
EMOJI_FILE = "emoji_sentiment_64px.npz"
THIRDS = (5.5, 6.5, 7.4)
# Rated pictures: law -> file and standard deviation of the noise. Of the ratings it is 1.2 in the
# first, 0.30 in the second.
RATED = {"rated-3": (f"{RATED_FILE}#{RATING}", 1.0), "rated-3-emoji": (EMOJI_FILE, 0.25)}
LAWS = (*CONTEXT_FILES, "digits-paper", "digits-shuffled", "rated-2", *RATED)


def environment(law: str, data: Path, runs: Path) -> dict[str, Any]:
    """The `env` section of a law; what it needs that `data` does not have is written to `runs`."""
    if law == "digits-paper":
        return {"id": "vitucb/DigitsPaper-v0"}
    if law == "digits-shuffled":
        return {"dataset": "digits", **SHUFFLED}
    if law == "rated-2":
        dataset = str(write_thirds(data_file(data, RATED_FILE), runs / "rated-2.npz"))
        slots = {"reward": "score", "num_arms": 3, "options": {"shuffle_slots": False}}
        return {"dataset": dataset, "noise_std": 1.0, **slots}
    if law in RATED:
        name, noise_std = RATED[law]
        dataset = str(data / name)
        return {"id": "vitucb/RatedItems-v0", "dataset": dataset, "noise_std": noise_std}
    options = {"with_replacement": False}
    dataset = str(data / CONTEXT_FILES[law])
    return {"id": "vitucb/ImageContext-v0", "dataset": dataset, "options": options}


def write_thirds(rated: Path, path: Path) -> Path:
    """The rated set as three classes, its thirds by rating; images are worth `THIRDS` of theirs."""
    with np.load(rated) as file:
        images, ratings = file["images"], file["scores"][:, list(file["score_names"]).index(RATING)]
    ranks = np.argsort(np.argsort(ratings, kind="stable"))
    labels = ranks * len(THIRDS) // len(ranks)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, images=images, labels=labels, scores=np.array(THIRDS, np.float32)[labels])
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
    parser = study_parser(__doc__, rounds=10_000, seeds=3)
    parser.add_argument("law", choices=LAWS)
    parser.add_argument("--agents", nargs="+", help="all of the law if not given")
    options = study_options(parser)
    options.rounds = min(options.rounds, MOST_ROUNDS.get(options.law, options.rounds))
    known = CONTEXT_AGENTS if options.law in CONTEXT_FILES else ARM_AGENTS
    labels = options.agents or list(known)
    if unknown := set(labels) - set(known):
        parser.error(f"{options.law} has no agents {sorted(unknown)}; choose of {list(known)}")
    env = environment(options.law, options.data, Path(options.runs))
    base = base_config(options, f"bandits/{options.law}", env)
    agents = {label: known[label] for label in labels}
    play(base, agents, seeds=range(options.seeds), workers=options.workers)
    ends = finished(base, known, seeds=range(options.seeds))
    curves = {label: np.stack([*by_seed.values()]) for label, by_seed in ends.items()}
    rounds = options.rounds
    header = ["agent", f"R({rounds // 10})", f"R({rounds // 2})", f"R({rounds})", "95 %", "seeds"]
    write_table(options.out / f"{options.law}.csv", [header, *table(curves)])
    if curves:
        draw_curves(curves, options.law, options.out / f"{options.law}.png")


if __name__ == "__main__":
    main()
