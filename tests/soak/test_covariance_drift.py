"""100,000 updates one by one, as an agent makes them, against float64 sums of what was added."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.soak.conftest import Trials
from vitucb.covariance import FeatureCovariance, make_covariance

_UPDATES, _DIM, _ARMS, _RIDGE = 100_000, 24, 4, 0.5
_BLOCK = 10_000
_GAMMA = 0.999
# Relative error of widths squared and of the information gain that float64 should stay below.
_TOLERANCE = 1e-10


def features(rng: np.random.Generator, count: int) -> Tensor:
    """Rows (count, p) whose scales span six orders of magnitude, float64."""
    scales = np.logspace(0, -6, _DIM)
    return torch.as_tensor(rng.standard_normal((count, _DIM)) * scales)


def play(covariance: FeatureCovariance, rng: np.random.Generator, discount: float) -> Tensor:
    """Score four arms and count the widest, `_BLOCK` times; the rows that were counted."""
    chosen = []
    for arms in features(rng, _BLOCK * _ARMS).view(_BLOCK, _ARMS, _DIM):
        if discount < 1:
            covariance.discount(discount)
        best = int(covariance.width(arms).argmax())
        covariance.update(index=best)
        chosen.append(arms[best])
    return torch.stack(chosen)


def relative(ours: Tensor, wanted: Tensor) -> float:
    return float(((ours - wanted).abs() / wanted.abs().clamp_min(1e-300)).max())


@pytest.mark.soak(
    "100,000 updates of a covariance one by one, against float64 sums at every 10,000",
    "widths squared and information gain within 1e-10",
)
@pytest.mark.parametrize("name", ["dense", "exact"])
def test_inverse_does_not_drift(name: str, trials: Trials) -> None:
    rng = np.random.default_rng(0)
    covariance = make_covariance(name, _DIM, ridge=_RIDGE)
    matrix, queries = _RIDGE * torch.eye(_DIM, dtype=torch.float64), features(rng, 50)
    for block in range(_UPDATES // _BLOCK):
        rows = play(covariance, rng, 1.0)
        matrix += rows.T @ rows
        wanted = (queries * torch.linalg.solve(matrix, queries.T).T).sum(1)
        error = relative(covariance.quad_form(queries), wanted)
        gain = float(torch.linalg.slogdet(matrix / _RIDGE).logabsdet)
        gap = abs(covariance.log_det - gain) / gain
        trials.check(max(error, gap) < _TOLERANCE, f"{name}, {block}: {error:.1e}, {gap:.1e}")
        trials.measured("relative error", max(error, gap))


@pytest.mark.soak(
    "100,000 discounted updates, against float64 sums at every 10,000",
    "widths squared within 1e-10",
)
def test_discounted_inverse_does_not_drift(trials: Trials) -> None:
    rng = np.random.default_rng(0)
    covariance = make_covariance("discounted", _DIM, ridge=_RIDGE)
    eye, queries = _RIDGE * torch.eye(_DIM, dtype=torch.float64), features(rng, 50)
    sums = [torch.zeros_like(eye), torch.zeros_like(eye)]
    for block in range(_UPDATES // _BLOCK):
        rows = play(covariance, rng, _GAMMA)
        ages = torch.arange(_BLOCK - 1, -1, -1, dtype=torch.float64)
        for i, gamma in enumerate((_GAMMA, _GAMMA**2)):
            sums[i] = gamma**_BLOCK * sums[i] + (rows.T * gamma**ages) @ rows
        solved = torch.linalg.solve(eye + sums[0], queries.T)
        wanted = (solved * ((eye + sums[1]) @ solved)).sum(0)
        error = relative(covariance.quad_form(queries), wanted)
        trials.check(error < _TOLERANCE, f"block {block}: {error:.1e}")
        trials.measured("relative error", error)


@pytest.mark.soak(
    "100,000 updates of low-rank, against float64 sums at every 10,000",
    "the interval that the sketch states holds the true width",
)
@pytest.mark.parametrize("name", ["low-rank"])
def test_intervals_of_sketches_hold(name: str, trials: Trials) -> None:
    rng = np.random.default_rng(0)
    covariance = make_covariance(name, _DIM, ridge=_RIDGE, rank=8)
    matrix, queries = _RIDGE * torch.eye(_DIM, dtype=torch.float64), features(rng, 50)
    for block in range(_UPDATES // _BLOCK):
        rows = play(covariance, rng, 1.0)
        matrix += rows.T @ rows
        wanted = (queries * torch.linalg.solve(matrix, queries.T).T).sum(1)
        low, high = covariance.interval(queries)
        slack = 1 + 1e-9
        holds = bool(((low <= slack * wanted) & (wanted <= slack * high)).all())
        trials.measured("relative error", relative(covariance.quad_form(queries), wanted))
        trials.check(holds and math.isfinite(covariance.log_det), f"{name}, block {block}")
