"""Error of every covariance against the exact one, on LoRA gradients of a real run.

Plays vit-ucb with the exact covariance, then feeds the rows it held to every other representation
and compares the squared widths of the arms of the last rounds: ratio to the exact ones (median,
range), Spearman correlation, how often the widest arm of a round is the same, memory. Beside them
the prototype's slice of the adapters and diagonals. Writes covariance.csv and covariance.png.

    python scripts/studies/study_covariance.py --rounds 1500
    python scripts/studies/study_covariance.py --regret 5 --rounds 400   # regret of each, 5 seeds

The regrets are those of runs that `vitucb report` reads; stopped, they go on where they were. Their
table is written anew after every seed; its seconds are those of choosing and learning.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from study_tools import add_backbone, add_out, base_config, out_folder, play, timing, write_table
from torch import Tensor

import vitucb
from vitucb.agents.vit_ucb import ViTUCB
from vitucb.assets import DEFAULT_BACKBONE
from vitucb.config import EnvConfig
from vitucb.covariance import FeatureCovariance, make_covariance
from vitucb.covariance.budgeted import BudgetedCovariance
from vitucb.covariance.dual import DualCovariance
from vitucb.covariance.frequent_directions import FrequentDirections
from vitucb.covariance.projected import low_rank
from vitucb.covariance.ridge_correction import effective_dimension
from vitucb.experiment.environments import make_env
from vitucb.models.threads import use_threads

QUERY_ROUNDS = 40
Squares = Callable[[Tensor], Tensor]
Row = dict[str, str | float]


class Recording(BudgetedCovariance):
    """The exact covariance, which keeps the arms of the last rounds."""

    def __init__(self, dim: int, ridge: float) -> None:
        """Start empty, with room for every row of the run."""
        super().__init__(dim, ridge=ridge, budget_bytes=2**33)
        self.arms: deque[Tensor] = deque(maxlen=QUERY_ROUNDS)

    def quad_form(self, phi: Tensor) -> Tensor:
        """Score and remember."""
        if not self.arms or phi.shape == self.arms[0].shape:  # Not the probe of a rebuild.
            self.arms.append(phi.clone())
        return super().quad_form(phi)


def rows_and_arms(
    dataset: str, rounds: int, seed: int, backbone: str = DEFAULT_BACKBONE
) -> tuple[Tensor, Tensor]:
    """Rows (rounds, p) in the covariance, and the arms (rounds, K, p) of the rounds that follow."""
    total = rounds + QUERY_ROUNDS
    env = make_env(EnvConfig(dataset=dataset), total)
    agent = vitucb.make_agent("vit-ucb", env, seed=seed, experts=["adapted"], backbone=backbone)
    assert isinstance(agent, ViTUCB)
    recording = Recording(agent.covariance.dim, agent.covariance.ridge)
    agent.history.covariance = recording
    regret = 0.0
    for played in vitucb.run(env, agent, seed=seed):
        regret = played.cumulative_regret
    print(f"played {total} rounds, regret {regret:.0f}")
    assert isinstance(recording.current, DualCovariance)
    rows = torch.cat([phi for phi, _ in recording.current.row_chunks()])
    return rows[:rounds], torch.stack(list(recording.arms))


def filled(covariance: FeatureCovariance, rows: Tensor) -> FeatureCovariance:
    """`covariance` with all `rows`, added in small batches."""
    for chunk in torch.split(rows, 25):
        covariance.update(chunk)
    return covariance


def prototype_diagonal(rows: Tensor, ridge: float) -> Squares:
    """The prototype's d <- d - d^2 v^2 / (1 + sum d v^2), which is no diagonal of A^-1."""
    d = torch.full((rows.shape[1],), 1.0 / ridge, dtype=torch.float64)
    for row in rows.double():
        d -= d.square() * row.square() / (1.0 + d @ row.square())
    return lambda phi: phi.double().square() @ d


def candidates(rows: Tensor, ridge: float) -> Iterator[tuple[str, str, Squares, float]]:
    """(family, name, squared widths, MiB) of every representation but the exact one."""
    dim = rows.shape[1]
    options: list[tuple[str, str, FeatureCovariance]] = [
        ("rows", "bfloat16 rows", DualCovariance(dim, ridge=ridge, dtype=torch.bfloat16)),
        ("diagonal", "diagonal", make_covariance("diagonal", dim, ridge=ridge)),
    ]
    for rank in (8, 16, 32, 64, 128, 256):
        made = FrequentDirections(dim, ridge=ridge, rank=rank, max_rank=rank)
        options.append(("frequent directions", f"frequent directions {rank}", made))
    for size in (256, 512, 1024, 2048, 4096):
        sketch = make_covariance("countsketch", dim, ridge=ridge, rank=size)
        options.append(("CountSketch", f"CountSketch {size}", sketch))
    for size, rank in ((1024, 64), (2048, 128), (4096, 256), (8192, 256), (8192, 512)):
        chain = low_rank(dim, ridge=ridge, sketch_dim=size, rank=rank, max_rank=rank)
        options.append(("low-rank", f"low-rank {size} -> {rank}", chain))
    for family, name, covariance in options:
        filled(covariance, rows)
        yield family, name, covariance.quad_form, covariance.memory_bytes / 2**20
    window = filled(DualCovariance(dim, ridge=ridge), rows[-256:])
    yield "window", "newest 256 rows", window.quad_form, window.memory_bytes / 2**20
    yield "diagonal", "prototype's diagonal", prototype_diagonal(rows, ridge), 4 * dim / 2**20
    start = dim - dim * 9 // 100
    part = filled(DualCovariance(dim - start, ridge=ridge), rows[:, start:])
    dense_bytes = 4 * (dim - start) ** 2
    yield (
        "slice",
        "slice, last 9 %",
        lambda phi: part.quad_form(phi[:, start:]),
        dense_bytes / 2**20,
    )


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation of two vectors."""
    ranks = [x.argsort().argsort().double().numpy() for x in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def compare(squares: Tensor, exact: Tensor, arms: int) -> dict[str, float]:
    """How far `squares` (n,) are from `exact` (n,), n a multiple of the arms of a round."""
    ratio = squares / exact
    scaled = (ratio / ratio.median()).sqrt()
    same = squares.view(-1, arms).argmax(1) == exact.view(-1, arms).argmax(1)
    return {
        "ratio median": float(ratio.median()),
        "ratio min": float(ratio.min()),
        "ratio max": float(ratio.max()),
        "width error, %": 100 * float((ratio.sqrt() - 1).abs().median()),
        "width error after one scale, %": 100 * float((scaled - 1).abs().median()),
        "Spearman": spearman(squares, exact),
        "same widest arm, %": 100 * float(same.double().mean()),
    }


def study(rows: Tensor, arms: Tensor, ridge: float) -> list[Row]:
    """The table at one ridge."""
    queries = arms.flatten(0, 1)
    exact = filled(DualCovariance(rows.shape[1], ridge=ridge), rows)
    assert isinstance(exact, DualCovariance)
    squares = exact.quad_form(queries)
    spectrum = exact.spectrum()
    d_eff = effective_dimension(spectrum, ridge)
    print(f"ridge {ridge}: effective dimension {d_eff:.0f}, log det {exact.log_det:.1f}, ", end="")
    shares = [float(spectrum[-k:].sum() / spectrum.sum()) for k in (1, 10, 50, 200, 500)]
    print("energy in the top 1/10/50/200/500:", " ".join(f"{s:.3f}" for s in shares))
    table: list[Row] = []
    for family, name, score, mib in candidates(rows, ridge):
        started = time.process_time()
        result = compare(score(queries), squares, arms.shape[1])
        seconds = time.process_time() - started
        row: Row = {"ridge": ridge, "family": family, "covariance": name, "MiB": mib}
        table.append({**row, **result, "ms per round": 1e3 * seconds / len(arms)})
        print("  ".join(f"{v:.4g}" if isinstance(v, float) else v for v in table[-1].values()))
    return table


def draw(table: list[Row], path: Path) -> None:
    """Width error against memory, one line per family, one panel per ridge."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    ridges = list(dict.fromkeys(row["ridge"] for row in table))
    figure, axes = plt.subplots(1, len(ridges), figsize=(5.5 * len(ridges), 4), sharey=True)
    for axis, ridge in zip(np.atleast_1d(axes), ridges, strict=True):
        here = [row for row in table if row["ridge"] == ridge]
        for family in dict.fromkeys(row["family"] for row in here):
            points = [row for row in here if row["family"] == family]
            sizes = [float(row["MiB"]) for row in points]
            errors = [max(float(row["width error, %"]), 1e-3) for row in points]
            axis.loglog(sizes, errors, "o-", label=family)
        axis.set_xlabel("memory, MiB")
        axis.set_title(f"ridge {ridge}")
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[0].set_ylabel("median error of the width, %")
    np.atleast_1d(axes)[-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


class SliceCovariance(BudgetedCovariance):
    """The prototype's way: only the last 9 % of the adapters' parameters."""

    def __init__(self, dim: int, *, ridge: float = 1.0, **options: object) -> None:
        """Start empty; `options` are not used."""
        super().__init__(dim * 9 // 100, ridge=ridge)

    def _as_rows(self, phi: Tensor) -> Tensor:
        return super()._as_rows(phi[..., -self.dim :])

    def certificate(self, phi: Tensor) -> dict[str, float]:
        """Of the slice: exact."""
        return super().certificate(phi[..., -self.dim :])


def variants() -> dict[str, dict[str, Any]]:
    """Settings of vit-ucb, by label."""
    last_layer: dict[str, Any] = {"features": "last-layer", "covariance": {"name": "dense"}}
    return {
        "exact": {"covariance": {"budget_mib": 8192}},
        "default: exact to 24 MiB, then low-rank": {},
        "low-rank": {"covariance": {"name": "low-rank"}},
        "last-layer": last_layer,
        "diagonal": {"covariance": {"name": "diagonal"}},
        "slice 9 %": {"covariance": {"name": "study_covariance:SliceCovariance"}},
        "alpha = 0": {"policy": {"alpha": 0.0}},
    }


def regrets(options: argparse.Namespace) -> None:
    """Regret of every variant; seeds outermost, so that a stop leaves whole ones."""
    name = Path(options.dataset).name
    base = base_config(options, f"covariance/{Path(name).stem}", {"dataset": options.dataset})
    header = ["dataset", "rounds", "seed", "variant", "regret", "seconds"]
    path = options.out / f"covariance-regret-{Path(name).stem}.csv"
    rows: list[list[str]] = []
    for seed in range(options.regret):
        curves = play(base, variants(), seeds=[seed], workers=options.workers)
        for label, (curve,) in curves.items():
            seconds = timing(base, label, seed)["seconds_per_round"] * len(curve)
            shared = [name, str(len(curve)), str(seed), label]
            rows.append([*shared, str(curve[-1]), f"{seconds:.1f}"])
        write_table(path, [header, *rows])


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--rounds", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ridges", type=float, nargs="+", default=[1.0, 0.1])
    parser.add_argument("--regret", type=int, default=0, help="seeds; compare regret instead")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument("--runs", default="runs", help="folder of the runs; finished ones stay")
    add_backbone(parser)
    add_out(parser, "30 rounds and one ridge")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.ridges = 30, [1.0]
    use_threads(1)
    arguments.out = out_folder(arguments)
    if arguments.regret:
        regrets(arguments)
        return
    rows, arms = rows_and_arms(
        arguments.dataset, arguments.rounds, arguments.seed, arguments.backbone
    )
    table = [row for ridge in arguments.ridges for row in study(rows, arms, ridge)]
    with (arguments.out / "covariance.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    draw(table, arguments.out / "covariance.png")


if __name__ == "__main__":
    main()
