r"""Does the best rate of an optimizer stay where it is when the rank or the backbone is another?

The protocol of `study_rates.py` on one set, scores at rank 8 of the embedded ViT shared with it:
for every optimizer the walk is done there, then from the rate found at the other ranks, at scale 2
as by default, and on a wider backbone if one is named. Told is the best rate of each, and how much
larger the squared error is if the rate of rank 8 is kept. A study that is stopped goes on.

    python scripts/studies/study_rate_transfer.py --data DATA
    python scripts/studies/study_rate_transfer.py --data DATA --ranks --img-size 28 \
        --wider vit_small_patch14_dinov2.lvd142m --weights FILE
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from study_rates import FIRST_TUNING_SEED, Log, Network, Scores, kind_of, walk
from study_tools import study_options, study_parser, suffix, write_table

from vitucb.models.threads import use_threads
from vitucb.optim import ENTRIES

DATA = "fashion_mnist"
OPTIMIZERS = ("lora-muon", "adamw", "lora-rite", "lora-plus", "scaled-adam", "lora-pro", "sgd")
RANKS = (2, 4, 16)
HEADER = ("optimizer", "network", "lr", DATA, "over the best, %", "best")
Found = Mapping[float, float]


def networks(options: argparse.Namespace) -> dict[str, Network]:
    """What is compared, by label; the first is that from whose best rate the others start."""
    own = Network(options.backbone)
    found = {"r=8": own, **{f"r={rank}": replace(own, rank=rank) for rank in options.ranks}}
    if options.wider:
        name, weights = options.wider, options.weights
        wide = Network(name, weights, options.img_size)
        found[f"{name.partition('.')[0]} {options.img_size} px"] = wide
    return found


def walks(
    name: str, scores: Mapping[str, Scores], seeds: Sequence[int]
) -> dict[str, dict[float, float]]:
    """Relative errors by rate, of every network."""
    start, found = ENTRIES[name].lr, {}
    for label, known in scores.items():

        def loss(lr: float, known: Scores = known) -> float:
            return float(np.mean([known.relative(DATA, seed, name, lr) for seed in seeds]))

        found[label] = walk(start, loss)
        if len(found) == 1:
            start = best(found[label])
    return found


def best(found: Found) -> float:
    """The rate of the least error."""
    return min(found, key=found.__getitem__)


def rows_of(name: str, found: Mapping[str, Found]) -> list[list[str]]:
    """A row for every rate tried."""
    rows = []
    for label, errors in found.items():
        least = errors[best(errors)]
        for lr, error in errors.items():
            worse = 100 * (error / least - 1)
            cells = [f"{lr:g}", f"{error:.4f}", f"{worse:.1f}", "*" * (lr == best(errors))]
            rows.append([name, label, *cells])
    return rows


def summary(name: str, found: Mapping[str, Found]) -> list[str]:
    """Best rate of every network, and what is lost by keeping that of the first."""
    kept = best(next(iter(found.values())))
    rates = [f"{best(errors):g}" for errors in found.values()]
    losses = [100 * (errors[kept] / min(errors.values()) - 1) for errors in found.values()]
    return [name, *rates, *(f"{loss:.1f}" for loss in losses[1:])]


def main() -> None:
    """Run the study."""
    parser = study_parser(__doc__, rounds=1_500, seeds=1)
    parser.add_argument("--steps", type=int, default=250, help="of training")
    parser.add_argument("--only", nargs="+", choices=ENTRIES, default=list(OPTIMIZERS))
    parser.add_argument("--ranks", nargs="*", type=int, default=list(RANKS))
    parser.add_argument("--wider", help="a wider backbone, as in agent.backbone")
    parser.add_argument("--weights", help="its weights, a .safetensors file")
    parser.add_argument("--img-size", type=int, help="of its input, pixels")
    options = study_options(parser)
    use_threads(1)
    seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + options.seeds)
    compared = networks(options)
    logs: dict[str, dict[tuple[str, int], Log]] = {}
    scores = {}
    for label, network in compared.items():
        name = suffix(options.backbone)
        if label != "r=8":
            name += f"-{label.replace(' ', '-').replace('=', '')}"
        if network.backbone != options.backbone:
            name += kind_of(network)
        shared = logs.setdefault(f"{network.backbone} {network.weights} {network.img_size}", {})
        scores[label] = Scores(options, network, name, shared)
    rows, table = [list(HEADER)], []
    for name in options.only:
        found = walks(name, scores, seeds)
        rows += rows_of(name, found)
        table.append(summary(name, found))
        write_table(options.out / "rate-transfer.csv", rows)
    lost = [f"lost {label}, %" for label in compared][1:]
    write_table(options.out / "rate-transfer-lost.csv", [["optimizer", *compared, *lost], *table])


if __name__ == "__main__":
    main()
