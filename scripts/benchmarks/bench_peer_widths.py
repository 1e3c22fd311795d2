r"""Widths sqrt(phi' A^-1 phi) beside published low-rank and Laplace posteriors.

A = ridge I + sum phi phi' of the same features, ridge 1, with the spectrum of LoRA gradients: by
`vitucb.covariance`, by linear_operator's low-rank-plus-diagonal (what GPyTorch solves with), and by
laplace-torch's posterior of a linear model with prior precision 1 and noise 1, whose functional
variance is the same quadratic form. First the largest relative difference of ten widths from those
in float64, then CPU time of one thread, in turn: of ten widths, and of a round, which is ten widths
and one observation more. Writes `peers-widths.csv`.

    pip install --target PEERS --no-deps linear-operator jaxtyping wadler-lindig laplace-torch \
        curvlinops-for-pytorch asdfghjkl einconv einops opt-einsum torchmetrics \
        lightning-utilities backpack-for-pytorch unfoldNd
    PYTHONPATH=PEERS python scripts/benchmarks/bench_peer_widths.py
    python scripts/benchmarks/bench_peer_widths.py --rows "vitucb exact" "vitucb low-rank"
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

import torch
from peer_tools import chosen_rows, cpu_times, machine, peer_parser, time_cells
from study_tools import out_folder, write_table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from vitucb.cli.bench.covariance import FeatureStream
from vitucb.cli.bench.scoring import ARMS, one_thread
from vitucb.covariance import make_covariance

RIDGE = 1.0
REFERENCE = "vitucb exact"
CASES: Final = {
    "embedded ViT, rank 4: p = 49,152, 100 rounds": (49_152, 100),
    "last layer: d = 192, 600 rounds": (192, 600),
}
"""Label -> (features, observations)."""
SMALL = 4_096
"""Up to how many features a p x p matrix is asked for."""


class Widths(Protocol):
    """A covariance of some observations."""

    def widths(self, arms: Tensor) -> Tensor:
        """Widths (K,) of features (K, p)."""
        ...

    def add(self, phi: Tensor) -> None:
        """One observation (p,) more."""
        ...


class Ours:
    """A covariance of vitucb; `index=0` adds the arm that was scored first."""

    def __init__(self, name: str, rows: Tensor) -> None:
        """A after `rows` (n, p)."""
        self._covariance = make_covariance(name, rows.shape[1], ridge=RIDGE)
        self._covariance.update(rows)

    def widths(self, arms: Tensor) -> Tensor:
        """Widths (K,) of features (K, p)."""
        return self._covariance.width(arms)

    def add(self, phi: Tensor) -> None:
        """The arm scored first, which is `phi`."""
        self._covariance.update(index=0)


class LowRankPlusDiagonal:
    """linear_operator's Woodbury solve, in float32; a new row makes a new operator."""

    def __init__(self, rows: Tensor) -> None:
        """A after `rows` (n, p)."""
        self._operators = importlib.import_module("linear_operator.operators")
        self._rows = rows
        self._build()

    def _build(self) -> None:
        o, dim = self._operators, self._rows.shape[1]
        root = o.LowRankRootLinearOperator(self._rows.mT)
        ridge = o.ConstantDiagLinearOperator(torch.full((1,), RIDGE), dim)
        self._operator = o.LowRankRootAddedDiagLinearOperator(root, ridge)

    def widths(self, arms: Tensor) -> Tensor:
        """Widths (K,) of features (K, p)."""
        squares, _ = self._operator.inv_quad_logdet(arms.mT, reduce_inv_quad=False)
        root: Tensor = squares.sqrt()
        return root

    def add(self, phi: Tensor) -> None:
        """One observation (p,) more, in place of the oldest: the size stays what was asked for."""
        self._rows = torch.cat([self._rows[1:], phi[None]])
        self._build()


class FunctionalPosterior:
    """laplace-torch's Gaussian process of a linear model; a new row is a new fit."""

    def __init__(self, rows: Tensor) -> None:
        """A after `rows` (n, p)."""
        self._rows = rows
        self._fit()

    def _fit(self) -> None:
        count = len(self._rows)
        self._laplace = _laplace(self._rows.shape[1], "gp", n_subset=count)
        self._laplace.fit(_loader(self._rows))

    def widths(self, arms: Tensor) -> Tensor:
        """Widths (K,) of features (K, p)."""
        return _standard_deviations(self._laplace, arms)

    def add(self, phi: Tensor) -> None:
        """One observation (p,) more, in place of the oldest: the size stays what was asked for."""
        self._rows = torch.cat([self._rows[1:], phi[None]])
        self._fit()


class FullPosterior:
    """laplace-torch's p x p posterior of a linear model, which takes rows one by one."""

    def __init__(self, rows: Tensor) -> None:
        """A after `rows` (n, p)."""
        self._laplace = _laplace(rows.shape[1], "full")
        self._laplace.fit(_loader(rows))

    def widths(self, arms: Tensor) -> Tensor:
        """Widths (K,) of features (K, p)."""
        return _standard_deviations(self._laplace, arms)

    def add(self, phi: Tensor) -> None:
        """One observation (p,) more."""
        self._laplace.fit(_loader(phi[None]), override=False)


def _laplace(dim: int, structure: str, **options: Any) -> Any:
    model = nn.Linear(dim, 1, bias=False)
    return importlib.import_module("laplace").Laplace(
        model,
        "regression",
        subset_of_weights="all",
        hessian_structure=structure,
        sigma_noise=1.0,
        prior_precision=RIDGE,
        **options,
    )


def _loader(rows: Tensor) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(rows, torch.zeros(len(rows), 1)), batch_size=len(rows))


def _standard_deviations(laplace: Any, arms: Tensor) -> Tensor:
    _, variance = laplace(arms)
    deviations: Tensor = variance.detach().flatten().sqrt()
    return deviations


Make: TypeAlias = Callable[[Tensor], Widths]
WAYS: Final[dict[str, tuple[Make, str | None]]] = {
    REFERENCE: (partial(Ours, "exact"), None),
    "vitucb low-rank": (partial(Ours, "low-rank"), None),
    "linear_operator, low rank plus diagonal": (LowRankPlusDiagonal, "linear_operator"),
    "laplace-torch, functional": (FunctionalPosterior, "laplace"),
    "laplace-torch, full": (FullPosterior, "laplace"),
}
"""Row -> how to make it, and the peer's module."""


def exact_widths(rows: Tensor, arms: Tensor) -> Tensor:
    """Widths (K,) in float64, by the n x n system."""
    rows, arms = rows.double(), arms.double()
    gram = rows @ rows.mT + RIDGE * torch.eye(len(rows), dtype=torch.float64)
    cross = rows @ arms.mT
    squares = arms.square().sum(1) - (cross * torch.linalg.solve(gram, cross)).sum(0)
    widths: Tensor = (squares / RIDGE).sqrt()
    return widths


def rows_of(label: str, ways: Sequence[str], repeats: int) -> list[list[str]]:
    """One row per way for one number of features."""
    dim, count = CASES[label]
    stream = FeatureStream(dim)
    rows, arms = stream.draw(count), stream.draw(ARMS)
    ways = [way for way in ways if dim <= SMALL or way != "laplace-torch, full"]
    made = {way: WAYS[way][0](rows) for way in ways}
    exact = exact_widths(rows, arms)
    gaps = {
        way: float(((covariance.widths(arms).double() - exact) / exact).abs().max())
        for way, covariance in made.items()
    }

    def one_round(covariance: Widths) -> None:
        covariance.widths(arms)
        covariance.add(arms[0])

    scores = cpu_times({way: partial(made[way].widths, arms) for way in ways}, repeats)
    rounds = cpu_times({way: partial(one_round, made[way]) for way in ways}, repeats)
    reference = REFERENCE if REFERENCE in ways else ways[0]
    return [
        [
            label,
            way,
            f"{gaps[way]:.1e}",
            *time_cells(scores, way, reference),
            *time_cells(rounds, way, reference),
        ]
        for way in ways
    ]


def main() -> None:
    """Measure, and write the table."""
    parser = peer_parser(__doc__, WAYS, repeats=15)
    options = parser.parse_args()
    ways = chosen_rows(parser, options, {way: module for way, (_, module) in WAYS.items()})
    cases = list(CASES)[1 if options.quick else 0 :]
    repeats = 2 if options.quick else options.repeats
    header = ["features", "way", "difference", "10 widths, ms", "x exact", "round, ms", "x exact"]
    print(machine())
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the peers
        rows = [row for label in cases for row in rows_of(label, ways, repeats)]
    write_table(out_folder(options) / "peers-widths.csv", [header, *rows])


if __name__ == "__main__":
    main()
