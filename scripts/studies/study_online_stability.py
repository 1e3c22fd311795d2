"""Online stability of the optimizers: a streaming regression, one sample or small batches at once.

A rank-4 adapter on a 48 x 32 weight follows a target that switches at half time. For every
optimizer and learning rate: the final relative error, the largest relative step of lora_A, and
whether the error ever exceeded three times its start. Besides, on noise: by how much a step of W
ever exceeded that of AdamW at the same learning rate. Writes a CSV table and prints it.
"""

from __future__ import annotations

import argparse
import csv
import functools
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from vitucb.models.lora import LoRAPair
from vitucb.models.threads import use_threads
from vitucb.optim import create_optimizer

ROWS, COLUMNS, RANK, SCALING = 48, 32, 4, 2.0
SMALL, LARGE = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2), (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
LOWER = tuple(lr / 10 for lr in SMALL)
FREE = {"max_step": 0.0}
NAIVE = {"basis_rcond": 0.0, "eig_floor_rel": 0.0, "guard": 0.0, "fix_gauge": False}
CASES: dict[str, tuple[str, dict[str, Any], tuple[float, ...]]] = {
    "SGD, unbounded": ("sgd", FREE, LARGE),
    "SGD (default)": ("sgd", {}, LARGE),
    "AdamW": ("adamw", {"weight_decay": 0.0}, SMALL),
    "LoRA+ (default: ratio 4)": ("lora-plus", {"weight_decay": 0.0}, LOWER),
    "LoRA+, ratio 16": ("lora-plus", {"weight_decay": 0.0, "ratio": 16.0}, LOWER),
    "ScaledAdam": ("scaled-adam", {}, SMALL),
    "ScaledGD, unbounded": ("scaled-gd", FREE, LARGE),
    "ScaledGD (default)": ("scaled-gd", {}, LARGE),
    "LAMB": ("lamb", {}, LARGE),
    "LoRA-FA": ("lora-fa", {}, SMALL),
    "RITE official": ("lora-rite", {"compat": "official"}, SMALL),
    "RITE official, no skip or clip": (
        "lora-rite",
        {"compat": "official", "clip_norm": 0.0, "skip_rms": 0.0},
        SMALL,
    ),
    "RITE eigenvalue floor only": ("lora-rite", {**NAIVE, "eig_floor_rel": 1e-4}, SMALL),
    "RITE truncation only": ("lora-rite", {**NAIVE, "basis_rcond": 1e-2}, SMALL),
    "RITE truncation and floor": ("lora-rite", {"guard": 0.0}, SMALL),
    "RITE (default: with guard)": ("lora-rite", {}, SMALL),
    "LoRA-Muon, unbounded": ("lora-muon", NAIVE, LARGE),
    "LoRA-Muon (default)": ("lora-muon", {}, LARGE),
    "Pro SGD, delta 1e-8": (
        "lora-pro",
        {"base": "sgd", "damping": 0.0, "delta": 1e-8, "guard": 0.0},
        LARGE,
    ),
    "Pro SGD, guard only": ("lora-pro", {"base": "sgd", **FREE}, LARGE),
    "Pro SGD (default)": ("lora-pro", {"base": "sgd"}, LARGE),
    "Pro full, delta 1e-8": (
        "lora-pro",
        {"moments": "full", "damping": 0.0, "delta": 1e-8, "guard": 0.0},
        SMALL,
    ),
    "Pro full, guard only": ("lora-pro", {"moments": "full", **FREE}, SMALL),
    "Pro full (default)": ("lora-pro", {"moments": "full"}, SMALL),
    "Pro factored, delta 1e-8": ("lora-pro", {"damping": 0.0, "delta": 1e-8}, SMALL),
    "Pro factored (default)": ("lora-pro", {}, SMALL),
    "RAC-LoRA (AdamW, 50), unbounded": ("rac-lora", {"inner_options": FREE}, SMALL),
    "RAC-LoRA (default: AdamW, 50)": ("rac-lora", {}, SMALL),
    "COLA (AdamW, 50), unbounded": ("cola", {"inner_options": FREE}, SMALL),
    "COLA (default: AdamW, 50)": ("cola", {}, SMALL),
    "Bernoulli-LoRA, unbounded": ("bernoulli-lora", FREE, LARGE),
    "Bernoulli-LoRA (default)": ("bernoulli-lora", {}, LARGE),
}


class Stream:
    """Samples y = W* x with a target W* that is replaced at half time."""

    def __init__(self, seed: int, steps: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.start = self._draw(ROWS, COLUMNS) / math.sqrt(COLUMNS)
        self.targets = [self.start + self._change() for _ in range(2)]
        self.steps = steps

    def _draw(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def _change(self) -> Tensor:
        low = self._draw(ROWS, RANK) @ self._draw(RANK, COLUMNS)
        # Noise beyond the adapter's rank: its best error is about 0.27 and not 0.
        noise = 0.3 * self._draw(ROWS, COLUMNS) / math.sqrt(ROWS * COLUMNS)
        change: Tensor = 4.0 * (low / low.norm() + noise)
        return change

    def target(self, step: int) -> Tensor:
        """W* at a step."""
        return self.targets[0] if step < self.steps // 2 else self.targets[1]

    def inputs(self, count: int) -> Tensor:
        """Samples x, (count, COLUMNS)."""
        return self._draw(count, COLUMNS)


def floor(stream: Stream) -> float:
    """The smallest relative error of a rank-RANK change towards the second target."""
    values = torch.linalg.svdvals(stream.targets[1] - stream.start)
    return float((values[RANK:].square().sum() / values.square().sum()).sqrt())


def run(
    name: str, options: dict[str, Any], lr: float, batch: int, steps: int, seed: int
) -> tuple[float, float, float]:
    """Final relative error, largest |dA| / |A|, largest error over the initial one."""
    stream = Stream(seed, steps)
    A = Parameter((2.0 * torch.rand(RANK, COLUMNS, generator=stream.generator) - 1) / COLUMNS**0.5)
    base = Parameter(stream.start.clone(), requires_grad=False)
    pair = LoRAPair("layer", A, Parameter(torch.zeros(ROWS, RANK)), SCALING, base)
    optimizer = create_optimizer(name, [pair], lr=lr, **options)
    largest_step = largest_error = error = 0.0
    inputs = stream.inputs(batch)
    for t in range(steps):
        # Batches above 1 are replay: one new sample, the others from the last ones.
        inputs = torch.cat((inputs[1:], stream.inputs(1)))
        W = base + SCALING * pair.B.detach() @ pair.A.detach()
        G = (W - stream.target(t)) @ inputs.mT @ inputs / batch
        pair.A.grad, pair.B.grad = (
            SCALING * pair.B.detach().mT @ G,
            SCALING * G @ pair.A.detach().mT,
        )
        before = pair.A.detach().clone()
        optimizer.step()
        size = float(before.norm())
        moved = float((pair.A.detach() - before).norm())
        # A chain's new sketch is not a step of A.
        if size > 0 and moved < 1e30 and name not in ("rac-lora", "cola", "bernoulli-lora"):
            largest_step = max(largest_step, moved / size)
        W = base + SCALING * pair.B.detach() @ pair.A.detach()
        reference = float((stream.target(t) - stream.start).norm())
        error = float((W - stream.target(t)).norm()) / reference
        largest_error = max(largest_error, error if math.isfinite(error) else math.inf)
    return (error if math.isfinite(error) else math.inf), largest_step, largest_error


def noise_steps(name: str, options: dict[str, Any], scale: float, m: int, n: int) -> Tensor:
    """|dW| of 300 steps at lr 1e-3 on rank-1 Gaussian gradients of size `scale`, from B = 0."""
    generator = torch.Generator().manual_seed(0)
    A = Parameter((2.0 * torch.rand(8, n, generator=generator) - 1.0) / n**0.5)
    base = Parameter(torch.zeros(m, n), requires_grad=False)
    pair = LoRAPair("layer", A, Parameter(torch.zeros(m, 8)), 1.0, base)
    optimizer = create_optimizer(name, [pair], lr=1e-3, **options)
    sizes, before = [], base.double()
    for _ in range(300):
        left, right = (torch.randn(k, 1, generator=generator) for k in (m, n))
        G = scale * left @ right.mT
        A.grad, pair.B.grad = pair.B.detach().mT @ G, G @ A.detach().mT
        optimizer.step()
        after = base.double() + pair.B.detach().double() @ A.detach().double()
        sizes.append((after - before).norm())
        before = after
    return torch.stack(sizes)


@functools.cache
def adamw_steps(scale: float, m: int, n: int) -> Tensor:
    """What the others are measured by."""
    return noise_steps("adamw", {}, scale, m, n)


def worst_ratio(name: str, options: dict[str, Any]) -> float:
    """The longest step over AdamW's at the same time; infinite if one was 0 or not finite."""
    worst = 0.0
    for m, n in ((96, 64), (64, 96)):
        for scale in (1e-4, 1e-2, 1.0, 1e2):
            sizes = noise_steps(name, options, scale, m, n)
            if not bool((sizes.isfinite() & (sizes > 0.0)).all()):
                return math.inf
            worst = max(worst, float((sizes / adamw_steps(scale, m, n)).max()))
    return worst


def study(batch: int, steps: int, seeds: int) -> list[list[str]]:
    """One row per optimizer: best final error, its learning rate, largest steps, bad rates."""
    rows = []
    for label, (name, options, rates) in CASES.items():
        results = {
            lr: [run(name, options, lr, batch, steps, seed) for seed in range(seeds)]
            for lr in rates
        }
        errors = {lr: sum(r[0] for r in runs) / seeds for lr, runs in results.items()}
        best = min(errors, key=lambda lr: errors[lr])
        step = max(r[1] for r in results[best])
        bad = sum(max(r[2] for r in runs) > 3.0 for runs in results.values())
        ratio = f"{worst_ratio(name, options):.2g}" if batch == 1 else ""
        cells = [f"{errors[best]:.3f}", f"{best:g}", f"{step:.2g}", str(bad), ratio]
        rows.append([label, str(batch), *cells])
    return rows


def main() -> None:
    """Run the study for batch 1 and 8."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("study_online_stability.csv"))
    arguments = parser.parse_args()
    use_threads(1)
    header = ["optimizer", "batch", "final error", "best lr", "max |dA|/|A|", "bad rates of 6"]
    header.append("step / AdamW's")
    rows = [row for batch in (1, 8) for row in study(batch, arguments.steps, arguments.seeds)]
    with arguments.out.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    floors = [floor(Stream(seed, arguments.steps)) for seed in range(arguments.seeds)]
    print(f"rank-{RANK} floor of the error: {sum(floors) / len(floors):.3f}")
    for row in [header, *rows]:
        print(f"{row[0]:32}" + "".join(f"{cell:>16}" for cell in row[1:]))


if __name__ == "__main__":
    main()
