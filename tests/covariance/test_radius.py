from __future__ import annotations

import math

import pytest
import torch

from vitucb.covariance import make_covariance, oful_radius


def test_radius_is_the_theorem() -> None:
    radius = oful_radius(3.0, noise=2.0, ridge=4.0, norm_bound=1.5, delta=0.05)
    assert radius == pytest.approx(2.0 * math.sqrt(3.0 + 2 * math.log(20)) + 3.0)
    with pytest.raises(ValueError, match="delta 0"):
        oful_radius(1.0, noise=1.0, ridge=1.0, norm_bound=1.0, delta=0.0)


def test_the_ellipsoid_covers_the_parameter_in_a_linear_bandit() -> None:
    worst = 0.0
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        truth = torch.randn(8, generator=generator, dtype=torch.float64)
        truth /= truth.norm()
        covariance, target = make_covariance("exact", 8), torch.zeros(8, dtype=torch.float64)
        for _ in range(100):
            phi = torch.randn(8, generator=generator, dtype=torch.float64) / 8**0.5
            noise = torch.randn((), generator=generator, dtype=torch.float64)
            target += phi * (phi @ truth + 0.5 * noise)
            covariance.update(phi)
        error = covariance.solve(target) - truth
        radius = oful_radius(covariance.log_det, noise=0.5, ridge=1.0, norm_bound=1.0, delta=0.05)
        queries = torch.randn(20, 8, generator=generator, dtype=torch.float64)
        worst = max(
            worst, float(((queries @ error).abs() / covariance.width(queries)).max() / radius)
        )
    assert worst < 1
