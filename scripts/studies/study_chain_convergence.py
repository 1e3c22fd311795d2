"""Chains against the optimum: which merge-and-restart schemes reach what full fine-tuning reaches.

Part 1, a 3 x 3 quadratic with Hessian diag(10, 1, ..., 1), a full-rank optimum and rank-1 adapters:
RAC-LoRA and Bernoulli-LoRA converge at step 1/L; plain and Asymmetric LoRA stop above the optimum;
COLA diverges. Part 2, linear regression (8 x 10, rank 2): every Bernoulli-LoRA estimator against
the bound on the mean squared gradient norm that its variance recursion gives. Writes a figure and
two CSV tables, and prints the tables.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
from study_tools import add_out, out_folder, write_table
from torch import Tensor
from torch.nn import Parameter

from vitucb.models.lora import LoRAPair
from vitucb.models.threads import use_threads
from vitucb.optim import create_optimizer
from vitucb.optim.chains.bernoulli_lora import BernoulliLoRA
from vitucb.optim.chains.draws import Draws

Closure = Callable[[], float]
# The theorems are about gradient steps of any length, so the bound on steps is off.
UNBOUNDED: dict[str, Any] = {"max_step": 0.0}
INNER: dict[str, Any] = {"inner": "sgd", "inner_options": UNBOUNDED}
CHAINS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain LoRA": ("sgd", UNBOUNDED),
    "Asymmetric LoRA": ("asymmetric-lora", INNER),
    "COLA, restart every 50": ("cola", {"inner_steps": 50, **INNER}),
    "RAC-LoRA left": ("rac-lora", {"inner_steps": 1, **INNER}),
    "RAC-LoRA right": ("rac-lora", {"inner_steps": 1, "side": "right", **INNER}),
    "Bernoulli-LoRA p = 0.5": ("bernoulli-lora", {"p": 0.5, **UNBOUNDED}),
}


class UnitDraws(Draws):
    """Fresh lora_A standard normal, as the counterexample has it; PEFT's is smaller and safer."""

    def initial_factor(self, shape: Sequence[int]) -> Tensor:
        """A ~ N(0, 1)."""
        return self.gaussian(shape)


def adapter(W0: Tensor, rank: int, scaling: float, seed: int) -> LoRAPair:
    """A pair with PEFT's initialisation on a base weight."""
    generator = torch.Generator().manual_seed(seed)
    m, n = W0.shape
    A = (2 * torch.rand(rank, n, generator=generator, dtype=W0.dtype) - 1) / n**0.5
    B = torch.zeros(m, rank, dtype=W0.dtype)
    base = Parameter(W0.clone(), requires_grad=False)
    return LoRAPair("layer", Parameter(A), Parameter(B), scaling, base)


def weight(pair: LoRAPair) -> Tensor:
    """W = base + s B A."""
    assert pair.base is not None
    return pair.base + pair.scaling * pair.B @ pair.A


def counterexample(steps: int, seed: int) -> dict[str, list[float]]:
    """Excess loss f - f* after every step, per chain, at step size 1/L."""
    hessian = torch.ones(3, 3, dtype=torch.float64)
    hessian[0, 0] = 10.0
    target = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.5, 1.0], [1.0, 0.0, 2.0]], dtype=torch.float64)
    curves: dict[str, list[float]] = {}
    for label, (name, options) in CHAINS.items():
        pair = adapter(torch.zeros(3, 3, dtype=torch.float64), 1, 1.0, seed)
        seeded: dict[str, Any] = {} if name == "sgd" else {"draws": UnitDraws(seed)}
        optimizer = create_optimizer(name, [pair], lr=0.1, **options, **seeded)
        curves[label] = []

        def closure(pair: LoRAPair = pair) -> float:
            pair.A.grad = pair.B.grad = None
            loss = 0.5 * (hessian * (weight(pair) - target).square()).sum()
            torch.autograd.backward(loss)
            return loss.item()

        for _ in range(steps):
            loss = optimizer.step(closure)
            curves[label].append(loss if loss is not None and math.isfinite(loss) else math.inf)
    return curves


@dataclass
class Regression:
    """f(W) = |X W' - Y|^2 / (2 N) with its constants."""

    X: Tensor
    Y: Tensor

    @classmethod
    def make(cls, seed: int = 0, rows: int = 120, m: int = 8, n: int = 10) -> Regression:
        """A noisy regression with full-rank solution."""
        generator = torch.Generator().manual_seed(seed)
        X = torch.randn(rows, n, generator=generator, dtype=torch.float64)
        W = torch.randn(m, n, generator=generator, dtype=torch.float64)
        noise = torch.randn(rows, m, generator=generator, dtype=torch.float64)
        return cls(X, X @ W.mT + 0.5 * noise)

    def curvature(self, X: Tensor) -> Tensor:
        """Eigenvalues of the Hessian block X' X / N, ascending."""
        values: Tensor = torch.linalg.eigvalsh(X.mT @ X / len(X))
        return values

    def gradient(self, W: Tensor, rows: slice | Tensor = slice(None)) -> Tensor:
        """The gradient on some rows."""
        X = self.X[rows]
        gradient: Tensor = (X @ W.mT - self.Y[rows]).mT @ X / len(X)
        return gradient

    def loss(self, W: Tensor) -> float:
        """F(W)."""
        return float(0.5 * (self.X @ W.mT - self.Y).square().sum() / len(self.X))

    def optimum(self) -> float:
        """The least loss."""
        return self.loss(torch.linalg.lstsq(self.X, self.Y).solution.mT)

    def closure(self, pair: LoRAPair, rows: slice | Tensor = slice(None)) -> Closure:
        """Evaluates the loss of some rows at the pair's weight, with gradients."""

        def evaluate() -> float:
            pair.A.grad = pair.B.grad = None
            residual = self.X[rows] @ weight(pair).mT - self.Y[rows]
            loss = 0.5 * residual.square().sum() / len(residual)
            torch.autograd.backward(loss)
            return loss.item()

        return evaluate


@dataclass
class Recursion:
    """E|G+ - grad|^2 <= (1 - theta) |G - grad|^2 + K |W+ - W|^2 + N."""

    theta: float
    K: float
    N: float


CLIENTS, BATCH, Q, MVR_B, TOP_K = 4, 8, 0.2, 0.1, 16


def recursions(problem: Regression, W0: Tensor) -> dict[str, Recursion]:
    """The constants of every estimator on this problem."""
    rows = problem.X.square().sum(1)
    L = float(problem.curvature(problem.X)[-1])
    L_row = float((rows**2).mean().sqrt())
    chunks = problem.X.chunk(CLIENTS)
    L_client = float(torch.stack([problem.curvature(c)[-1] ** 2 for c in chunks]).mean().sqrt())
    size = W0.numel()
    omega, beta = size**0.5, TOP_K / size
    noise = _sample_variance(problem, W0) / BATCH
    root = math.sqrt(1 - beta)
    return {
        "gd": Recursion(1.0, 0.0, 0.0),
        "sgd": Recursion(1.0, 0.0, noise),
        "page": Recursion(Q, (1 - Q) * L_row**2 / BATCH, 0.0),
        "mvr": Recursion(MVR_B, 2 * (1 - MVR_B) ** 2 * max(L_row, L) ** 2, 2 * MVR_B**2 * noise),
        "qgd": Recursion(1.0, 0.0, omega / CLIENTS),
        "marina": Recursion(Q, (1 - Q) * omega * L_client**2 / CLIENTS, 0.0),
        "ef21": Recursion(1 - root, (1 - beta) * L_client**2 / (1 - root), 0.0),
    }


def _sample_variance(problem: Regression, W: Tensor) -> float:
    residual = problem.X @ W.mT - problem.Y
    squares = residual.square().sum(1) * problem.X.square().sum(1)
    return float(squares.mean() - problem.gradient(W).square().sum())


def _client_squares(problem: Regression, W: Tensor) -> float:
    rows = torch.arange(len(problem.X)).chunk(CLIENTS)
    return sum(float(problem.gradient(W, r).square().sum()) for r in rows) / CLIENTS


def estimator_run(
    problem: Regression, kind: str, recursion: Recursion, steps: int, seed: int
) -> tuple[list[float], float]:
    """Squared gradient norm at every point, and the bound on their mean."""
    m, n, r = 8, 10, 2
    W0 = torch.zeros(m, n, dtype=torch.float64)
    pair = adapter(W0, r, 1.0, seed)
    L, p = float(problem.curvature(problem.X)[-1]), 0.5
    # H is isotropic: E H = (r/m) I on the left and (r/n) I on the right.
    share = p * r / m + (1 - p) * r / n
    gamma = 1.0 / (L + math.sqrt(share * recursion.K / recursion.theta))
    if kind == "qgd":
        # Dithering noise grows with the gradient: the step pays for its second moment.
        gamma = 1.0 / (L * (1.0 + W0.numel() ** 0.5 / CLIENTS))
    settings = {"estimator": kind, "q": Q, "b": MVR_B, "k": TOP_K, "seed": seed, **UNBOUNDED}
    optimizer = create_optimizer("bernoulli-lora", [pair], lr=gamma, **settings)
    assert isinstance(optimizer, BernoulliLoRA)
    generator = torch.Generator().manual_seed(seed + 1)
    clients = [problem.closure(pair, rows) for rows in torch.arange(len(problem.X)).chunk(CLIENTS)]
    many = clients if kind in ("qgd", "marina", "ef21") else []
    full = problem.closure(pair) if kind == "page" else None
    squares, local = [], 0.0
    for _ in range(steps):
        squares.append(float(problem.gradient(weight(pair).detach()).square().sum()))
        local += _client_squares(problem, weight(pair).detach()) / steps
        batch = torch.randint(len(problem.X), (BATCH,), generator=generator)
        rows: Tensor | slice = slice(None) if kind == "gd" else batch
        optimizer.step(problem.closure(pair, rows), full=full, clients=many)
    # For qgd N is this times the mean square of the clients' gradients, measured on the path.
    noise = recursion.N * (local if kind == "qgd" else 1.0)
    start = problem.loss(W0) - problem.optimum()
    first = noise if kind in ("sgd", "mvr", "qgd") else 0.0
    phi = start + gamma * share * first / (2 * recursion.theta)
    bound = 2 * phi / (gamma * share * steps) + noise / recursion.theta
    return squares, bound


def draw(curves: dict[str, list[float]], squares: dict[str, list[float]], path: Path) -> None:
    """Two panels: the counterexample, and the estimators."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
    for label, values in curves.items():
        axes[0].semilogy([v if v < 1e6 else math.nan for v in values], label=label)
    for label, values in squares.items():
        axes[1].semilogy(values, label=label)
    axes[0].set(xlabel="step", ylabel="loss minus optimum", title="3 x 3 counterexample, step 1/L")
    axes[0].set_ylim(1e-32, 1e6)
    axes[1].set(xlabel="step", ylabel="squared gradient norm", title="Bernoulli-LoRA estimators")
    for axis in axes:
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    add_out(parser, "200 steps")
    options = parser.parse_args()
    steps = 200 if options.quick else options.steps
    use_threads(1)
    options.out = out_folder(options)
    curves = counterexample(steps, seed=0)
    finals = [["chain", "final f - f*"], *([k, f"{v[-1]:.3g}"] for k, v in curves.items())]
    problem = Regression.make()
    constants = recursions(problem, torch.zeros(8, 10, dtype=torch.float64))
    table = [["estimator", "mean |grad|^2", "bound", "final |grad|^2"]]
    squares = {}
    for kind, recursion in constants.items():
        squares[kind], bound = estimator_run(problem, kind, recursion, steps, seed=0)
        mean = sum(squares[kind]) / len(squares[kind])
        table.append([kind, f"{mean:.3g}", f"{bound:.3g}", f"{squares[kind][-1]:.3g}"])
    draw(curves, squares, options.out / "chains.png")
    write_table(options.out / "chains-counterexample.csv", finals)
    write_table(options.out / "chains-estimators.csv", table)


if __name__ == "__main__":
    main()
