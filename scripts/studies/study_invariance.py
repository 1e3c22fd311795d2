"""Does the trained weight depend on how the adapter was factored? A figure and a table.

B A = (B R)(R^-1 A): one adapter, many factorisations. A rank-4 adapter on a 48 x 32 weight is
trained from the same product written in several ways (factors scaled by c and 1 / c, a rotation, a
random R of condition 10), by every optimizer, and the distance between the resulting weights is
compared with the way they came. 0 is transformation invariance (LoRA-RITE, definition 1; Yen et
al., 2024, https://arxiv.org/abs/2410.20625). Beside it the norms of both factors over training (as
in the paper's figure 1): an optimizer that is not invariant lets the smaller factor do the work.

    python scripts/studies/study_invariance.py
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from study_tools import add_out, out_folder, write_table
from torch import Tensor
from torch.nn import Parameter

from vitucb.models.lora import LoRAPair
from vitucb.models.threads import use_threads
from vitucb.optim import create_optimizer

ROWS, COLUMNS, RANK, SCALING, SAMPLES = 48, 32, 4, 2.0, 64
# The published moments, and no guard or floor of ours, to see the rule itself.
CASES: dict[str, tuple[str, float, dict[str, Any]]] = {
    "sgd": ("sgd", 1e-2, {}),
    "adamw": ("adamw", 3e-3, {"weight_decay": 0.0}),
    "lora-plus": ("lora-plus", 3e-4, {"weight_decay": 0.0}),
    "lora-fa": ("lora-fa", 3e-3, {}),
    "scaled-gd": ("scaled-gd", 1e-2, {"reg": 1e-9}),
    "scaled-adam": ("scaled-adam", 3e-3, {}),
    "lora-pro, sgd": ("lora-pro", 1e-2, {"base": "sgd"}),
    "lora-pro, full": ("lora-pro", 3e-3, {"moments": "full"}),
    "lora-pro": ("lora-pro", 3e-3, {}),
    "lora-rite": ("lora-rite", 3e-3, {}),
    "lora-muon": ("lora-muon", 3e-2, {}),
}


def transforms(generator: torch.Generator) -> dict[str, Tensor]:
    """R (RANK, RANK), by name."""
    q, _ = torch.linalg.qr(torch.randn(RANK, RANK, generator=generator, dtype=torch.float64))
    p, _ = torch.linalg.qr(torch.randn(RANK, RANK, generator=generator, dtype=torch.float64))
    spread = torch.logspace(-0.5, 0.5, RANK, dtype=torch.float64)
    eye = torch.eye(RANK, dtype=torch.float64)
    return {"scale 10": 10.0 * eye, "rotation": q, "condition 10": q @ torch.diag(spread) @ p}


class Problem:
    """Least squares: the weight of the base plus the adapter has to map inputs as a target does."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        self.inputs = draw(SAMPLES, COLUMNS)
        self.A = draw(RANK, COLUMNS) / COLUMNS**0.5
        self.B = 0.3 * draw(ROWS, RANK) / ROWS**0.5
        self.target = draw(ROWS, RANK) @ draw(RANK, COLUMNS) / (ROWS * COLUMNS) ** 0.25
        self.transforms = transforms(generator)

    def train(
        self, name: str, lr: float, options: dict[str, Any], R: Tensor, steps: int
    ) -> tuple[Tensor, list[tuple[float, float]]]:
        """Change of the weight after every step (steps, ROWS, COLUMNS), and norms of A and B."""
        A = Parameter(torch.linalg.solve(R, self.A))
        B = Parameter(self.B @ R)
        pair = LoRAPair("layer", A, B, SCALING, torch.zeros(ROWS, COLUMNS, dtype=torch.float64))
        optimizer = create_optimizer(name, [pair], lr=lr, **options)
        start = SCALING * (B @ A).detach()
        path, norms = [], []
        for _ in range(steps):
            error = (SCALING * (B @ A).detach() - self.target) @ self.inputs.mT
            G = error @ self.inputs / SAMPLES
            A.grad, B.grad = SCALING * B.detach().mT @ G, SCALING * G @ A.detach().mT
            optimizer.step()
            path.append(SCALING * (B @ A).detach() - start)
            norms.append((float(A.detach().norm()), float(B.detach().norm())))
        return torch.stack(path), norms


def study(steps: int, seeds: int) -> tuple[list[list[str]], dict[str, dict[str, Tensor]]]:
    """Table of distances at the end, and distance curves (steps,) by optimizer and transform."""
    rows, curves = [], {}
    for label, (name, lr, options) in CASES.items():
        sums: dict[str, Tensor] = {}
        for seed in range(seeds):
            problem = Problem(seed)
            eye = torch.eye(RANK, dtype=torch.float64)
            plain, _ = problem.train(name, lr, options, eye, steps)
            for kind, R in problem.transforms.items():
                other, _ = problem.train(name, lr, options, R, steps)
                far = (plain - other).flatten(1).norm(dim=1) / plain.flatten(1).norm(dim=1)
                sums[kind] = sums.get(kind, torch.zeros_like(far)) + far / seeds
        curves[label] = sums
        rows.append([label, f"{lr:g}", *(f"{float(far[-1]):.2g}" for far in sums.values())])
    return rows, curves


def draw(curves: dict[str, dict[str, Tensor]], steps: int, path: Path) -> None:
    """Left: distance under the worst transform. Right: norms of the factors from scale 10."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    for label, kinds in curves.items():
        left.semilogy(torch.stack(list(kinds.values())).amax(0).clamp_min(1e-17), label=label)
    left.set(title="distance of the weights of two factorisations", xlabel="step")
    left.set_ylabel("relative to the change of the weight")
    left.legend(fontsize=7, ncol=2)
    problem = Problem(0)
    for color, label in zip(("C1", "C5", "C9"), ("adamw", "scaled-adam", "lora-rite"), strict=True):
        name, lr, options = CASES[label]
        _, norms = problem.train(name, lr, options, problem.transforms["scale 10"], steps)
        for style, factor, values in zip("-:", "AB", zip(*norms, strict=True), strict=True):
            right.semilogy(values, style, color=color, label=f"{label}, |{factor}|")
    right.set(title="norms of the factors, A started 10 times smaller", xlabel="step")
    right.legend(fontsize=7)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    add_out(parser, "10 steps, one seed")
    arguments = parser.parse_args()
    use_threads(1)
    steps, seeds = (10, 1) if arguments.quick else (arguments.steps, arguments.seeds)
    rows, curves = study(steps, seeds)
    out = out_folder(arguments)
    header = ["optimizer", "lr", *next(iter(curves.values()))]
    write_table(out / "invariance.csv", [header, *rows])
    draw(curves, steps, out / "invariance.png")


if __name__ == "__main__":
    main()
