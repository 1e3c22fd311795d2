"""Make a covariance by name."""

from __future__ import annotations

from typing import Any

import torch

from vitucb.config import CovarianceConfig
from vitucb.covariance.base import FeatureCovariance
from vitucb.covariance.table import COVARIANCES
from vitucb.registry import lookup


def make_covariance(
    name: str,
    dim: int,
    *,
    ridge: float = 1.0,
    rank: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    **options: object,
) -> FeatureCovariance:
    """The covariance called `name`, empty.

    Args:
        name: A key of `COVARIANCES`, or `package.module:Class`.
        dim: Number of features p.
        ridge: Ridge of A, above 0.
        rank: Size of a sketch: directions kept (frequent directions, low rank) or sketch dimension
            (countsketch); None for each one's default; the others ignore it.
        seed: Seed of a random sketch.
        dtype: Of stored features where none have been seen yet; rows are kept in the type of the
            first features that enter. The small algebra is float64 always.
        options: Passed on to the class.

    Raises:
        ValueError: If the name is unknown, or `dim`, `ridge` or `rank` is not usable.

    Example:
        >>> import torch
        >>> covariance = make_covariance("dense", dim=2, ridge=4.0)
        >>> covariance.width(torch.tensor([[1.0, 0.0]]))
        tensor([0.5000], dtype=torch.float64)
    """
    made: FeatureCovariance = lookup("covariance", name, COVARIANCES)(
        dim, ridge=ridge, rank=rank, seed=seed, dtype=dtype, **options
    )
    return made


def configured_covariance(
    config: CovarianceConfig, dim: int, *, ridge: float, seed: int
) -> FeatureCovariance:
    """The covariance of p = `dim` features that `config` asks for, empty.

    Args:
        config: Name, rank and budget; its ridge is in other units.
        dim: Number of features p.
        ridge: Ridge of A.
        seed: Seed of a random sketch.

    Raises:
        ValueError: If the name, the rank or the budget is not usable.
    """
    options: dict[str, Any] = {}
    if config.budget_mib is not None:
        if config.name != "exact":
            raise ValueError(
                f"agent.covariance.budget_mib {config.budget_mib} bounds the rows of exact, not "
                f"{config.name}; leave it out"
            )
        options["budget_bytes"] = config.budget_mib << 20
    return make_covariance(config.name, dim, ridge=ridge, rank=config.rank, seed=seed, **options)
