"""What a covariance costs per round (score K arms, add one) and in memory, early and late.

Features are synthetic, with the spectrum of LoRA gradients (a few directions hold most of the
energy). CPU time of one thread, on an accelerator time on the clock; minimum over interleaved
repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from vitucb.cli.bench.clock import clock_of
from vitucb.cli.bench.scoring import ARMS, Row, least_times, one_thread
from vitucb.covariance import FeatureCovariance, make_covariance
from vitucb.covariance.projected import ProjectedCovariance

SIZES = {"vitucb-nano, rank 4": 49_152, "ViT-S, rank 3": 221_184}
"""Label -> number of features p."""
# Just before a shrink, when a low-rank sketch of rank 256 is fullest.
EARLY, LATE = 100, 10_200
# Exact rows for LATE rounds at these sizes would take 2 to 9 GB, so its late row is another one.
EXACT_LATE = 1_000
_DIRECTIONS = 200


class FeatureStream:
    """Features (b, p), float32, mean squared norm 1, with a spectrum like that of LoRA gradients.

    200 directions with energies as i^-2 hold 99.7 % (measured on LoRA gradients: 58, 92, 98, 99.7
    % in the top 1, 10, 50, 200), noise the rest.
    """

    def __init__(self, dim: int, device: str = "cpu") -> None:
        """Draw the directions."""
        self.device, self._generator = device, torch.Generator().manual_seed(0)
        basis = torch.randn(_DIRECTIONS, dim, generator=self._generator)
        scales = torch.arange(1, _DIRECTIONS + 1, dtype=torch.float32) ** -1.0
        basis *= (0.997**0.5 * scales / scales.norm() / dim**0.5)[:, None]
        self.basis = basis.to(device)

    def draw(self, count: int) -> Tensor:
        """`count` features."""
        dim = self.basis.shape[1]
        noise = torch.randn(count, dim, generator=self._generator) * (0.003 / dim) ** 0.5
        coefficients = torch.randn(count, _DIRECTIONS, generator=self._generator)
        return torch.addmm(noise.to(self.device), coefficients.to(self.device), self.basis)


def filled(name: str, stream: FeatureStream, rounds: int) -> FeatureCovariance:
    """The covariance after `rounds` observations; a projected one is fed already projected ones."""
    covariance = make_covariance(name, stream.basis.shape[1])
    if isinstance(covariance, ProjectedCovariance):
        raw, stream = stream, FeatureStream(covariance.sketch_dim, stream.device)
        stream.basis = covariance.projection(raw.basis)
    for start in range(0, rounds, 50):
        covariance.update(stream.draw(min(50, rounds - start)))
    return covariance


def round_times(covariances: Mapping[str, FeatureCovariance], arms: Tensor) -> dict[str, float]:
    """Milliseconds of `<name> score` and `<name> round` (score all arms, add the first)."""

    def score(covariance: FeatureCovariance) -> None:
        covariance.width(arms)

    def one_round(covariance: FeatureCovariance) -> None:
        covariance.width(arms)
        covariance.update(index=0)

    calls: dict[str, Callable[[], object]] = {}
    for name, covariance in covariances.items():
        calls[f"{name} score"] = partial(score, covariance)
        calls[f"{name} round"] = partial(one_round, covariance)
    return least_times(calls, repeats=9, clock=clock_of(str(arms.device)))


def size_rows(label: str, names: list[str], device: str) -> list[Row]:
    """Each covariance at p features, early and late."""
    dim = SIZES[label]
    stream = FeatureStream(dim, device)
    arms = stream.draw(ARMS)
    rounds = {name: (EARLY, EXACT_LATE if name == "exact" else LATE) for name in names}
    keys = [(name, t) for name in names for t in rounds[name]]
    made = {f"{name} {t}": filled(name, stream, t) for name, t in keys}
    times = round_times(made, arms)
    return [
        {
            "features": label,
            "covariance": name,
            "rounds": t,
            "score, ms": times[f"{name} {t} score"],
            "score and update, ms": times[f"{name} {t} round"],
            "x early": times[f"{name} {t} round"] / times[f"{name} {rounds[name][0]} round"],
            "MiB": made[f"{name} {t}"].memory_bytes / 2**20,
            "certificate": made[f"{name} {t}"].certificate(arms)["covariance/certificate"],
        }
        for name, t in keys
    ]


def dense_rows(device: str) -> list[Row]:
    """The dense form where it fits, in float64."""
    rows: list[Row] = []
    for dim in (192, 768, 2048):
        stream = FeatureStream(dim, device)
        covariance, arms = filled("dense", stream, 200), stream.draw(ARMS)
        times = round_times({"dense": covariance}, arms)
        rows.append(
            {
                "features": f"last layer, d = {dim}",
                "covariance": "dense",
                "rounds": 200,
                "score, ms": times["dense score"],
                "score and update, ms": times["dense round"],
                "x early": 1.0,
                "MiB": covariance.memory_bytes / 2**20,
                "certificate": 0.0,
            }
        )
    return rows


def run_suite(device: str = "cpu") -> list[Row]:
    """The table of `vitucb bench --suite covariance`; about two minutes on one thread."""
    with one_thread():
        nano, small = SIZES
        rows = size_rows(nano, ["exact", "low-rank", "countsketch", "diagonal"], device)
        return rows + size_rows(small, ["low-rank"], device) + dense_rows(device)
