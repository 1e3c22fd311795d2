"""Which blocks, which rank, and how many patches of an image, to learn much at little cost?

The protocol of `study_rates.py`, on training images and tuning seeds: `adapted` takes 250 steps on
what `lin-ucb` played, and is judged by the squared error of what it expects of the labels of images
ahead, over that of the frozen `softmax`. AdamW at the rate it has by default. Beside it the
processor time of the 250 steps. A study that is stopped goes on.

    python scripts/studies/study_adapters.py --data DATA
    python scripts/studies/study_adapters.py --data DATA --img-size 28 \
        --backbone vit_small_patch14_dinov2.lvd142m --weights FILE
    python scripts/studies/study_adapters.py --data DATA --rounds 1000 --steps 600 --seeds 4 \
        --only "all" "all, 0.25 left out" "all, 0.375 left out" "all, rank 4, 0.25 left out" \
        --name patch-dropout
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from study_rates import (
    AHEAD,
    FIRST_TUNING_SEED,
    LABELS,
    Log,
    Network,
    adapted,
    ahead,
    judge,
    kind_of,
    play_log,
    remember,
)
from study_tools import data_file, study_options, study_parser, write_table

from vitucb.learning.experts.softmax import LabelExpert
from vitucb.models.threads import use_threads
from vitucb.storage.atomic_files import write_durably

SETS = ("fashion_mnist_train10k", "mnist_train10k", "cifar10_train50k_jpeg")
HEADER = ("adapters", *SETS, "mean", "over the first", "its error", "best of", "seconds")


def networks(backbone: Network) -> dict[str, Network]:
    """What is compared: blocks at rank 8, ranks in all blocks, patches that steps leave out."""
    half, last = replace(backbone, blocks="last-half"), replace(backbone, blocks=(-1,))
    found = {"all": backbone, "last half": half, "last": last}
    found |= {f"all, rank {rank}": replace(backbone, rank=rank) for rank in (1, 2, 4, 16)}
    for rate in (0.25, 0.375, 0.5):
        found[f"all, {rate} left out"] = replace(backbone, patch_drop_rate=rate)
    found["all, rank 4, 0.25 left out"] = replace(backbone, rank=4, patch_drop_rate=0.25)
    return found


def measure(network: Network, log: Log, seed: int, steps: int) -> list[float]:
    """Squared error over that of `softmax`, and seconds of the steps on one thread."""
    frozen = LabelExpert(log.offers[0].features.shape[1], LABELS, seed=seed)
    least, _ = judge(frozen, log)
    expert = adapted("adamw", None, seed, steps, network)
    remember(expert, log)
    begin = time.process_time()
    expert.wake()
    seconds = time.process_time() - begin
    return [ahead(expert, log)[0] / least, seconds]


def main() -> None:
    """Run the study."""
    parser = study_parser(__doc__, rounds=1_500, seeds=3)
    parser.add_argument("--steps", type=int, default=250, help="of training")
    parser.add_argument("--weights", help="its weights, a .safetensors file")
    parser.add_argument("--img-size", type=int, help="of its input, pixels")
    parser.add_argument("--only", nargs="+", help="of what is compared; all if not given")
    parser.add_argument("--name", help="of the table; that of the backbone if not given")
    options = study_options(parser)
    use_threads(1)
    network = Network(options.backbone, options.weights, options.img_size)
    found = networks(network)
    if unknown := set(options.only or ()) - set(found):
        parser.error(f"no networks {sorted(unknown)}; choose of {list(found)}")
    found = {key: found[key] for key in options.only or found}
    label = options.backbone.partition(".")[0]
    played = f"{label}{kind_of(network)}-{options.rounds}-{options.steps}"
    file = Path(options.runs) / f"adapters-{played}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for seed in range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + options.seeds):
        for data in SETS:
            todo = {k: n for k, n in found.items() if f"{data} {seed} {k}" not in known}
            if not todo:
                continue
            rounds = options.rounds + AHEAD
            path = data_file(options.data, f"{data}.npz")
            log = play_log(path, rounds, seed, next(iter(todo.values())))
            for key, one in todo.items():
                known[f"{data} {seed} {key}"] = measure(one, log, seed, options.steps)
                print(data, seed, key, *known[f"{data} {seed} {key}"], flush=True)
                write_durably(file, json.dumps(known, indent=1))
    seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + options.seeds)
    name = options.name or f"adapters-{label}"
    write_table(options.out / f"{name}.csv", table(known, list(found), seeds))


def table(known: dict[str, list[float]], labels: list[str], seeds: range) -> list[list[str]]:
    """A row for each network: mean errors by set, in how many of all it is best, mean seconds.

    Over the first: the geometric mean of its errors over those of the first row, each on one set
    and seed, and the standard error of its logarithm.
    """
    found = np.array([[[known[f"{d} {s} {k}"] for s in seeds] for d in SETS] for k in labels])
    errors, seconds = found[..., 0], found[..., 1]
    best = errors.argmin(axis=0)
    rows = [list(HEADER)]
    for i, label in enumerate(labels):
        logs = np.log(errors[i] / errors[0]).ravel()
        scatter = logs.std(ddof=1) / len(logs) ** 0.5
        by_set = [f"{error:.3f}" for error in errors[i].mean(axis=1)]
        wins = f"{int((best == i).sum())} of {best.size}"
        mean, cost = f"{errors[i].mean():.3f}", f"{seconds[i].mean():.1f}"
        over = [f"{np.exp(logs.mean()):.3f}", f"{scatter:.3f}"]
        rows.append([label, *by_set, mean, *over, wins, cost])
    return rows


if __name__ == "__main__":
    main()
